"""Add the vector to the residual stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steerkit.interfaces import EditContext, Steerer

if TYPE_CHECKING:
    from torch import Tensor


class ResidualAdd(Steerer):
    """h + norm · v̂ at every steered token."""

    def edit(self, hidden: Tensor, at: EditContext) -> Tensor:
        return hidden + at.norm * at.direction
