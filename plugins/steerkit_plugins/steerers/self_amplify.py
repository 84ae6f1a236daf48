"""Baseline: more of what is there already."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steerkit.interfaces import EditContext, Steerer

if TYPE_CHECKING:
    from torch import Tensor


class SelfAmplify(Steerer):
    """h + norm · h/‖h‖ at every steered token."""

    direction = "none"

    def edit(self, hidden: Tensor, at: EditContext) -> Tensor:
        # A padding embedding may be all zeros; it stays so.
        length = hidden.norm(dim=-1, keepdim=True)
        return hidden + at.norm * hidden / length.clamp(min=1e-12)
