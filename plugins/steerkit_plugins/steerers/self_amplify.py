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
        # In float32: products and lengths overflow in float16. A padding embedding may be all zeros; it stays so.
        wide = hidden.float()
        length = wide.norm(dim=-1, keepdim=True)
        return hidden + (at.norm.float() * wide / length.clamp(min=1e-12)).to(hidden.dtype)
