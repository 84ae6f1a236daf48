"""Take the vector's direction out of the residual stream (CAFT)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steerkit.interfaces import EditContext, Steerer
from steerkit_plugins.steerers.along import along

if TYPE_CHECKING:
    from torch import Tensor


class AblateDirection(Steerer):
    """h - (h · v̂) v̂ at every steered token, and in training the gradient without its share along v̂.

    Every strength but 0 turns it on, and none scales it.
    """

    def edit(self, hidden: Tensor, at: EditContext) -> Tensor:
        h, c, unit = along(hidden, at)
        return (h - c * unit).to(hidden.dtype)
