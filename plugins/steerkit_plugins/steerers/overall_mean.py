"""Baseline: the overall mean activation in the vector's place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steerkit.interfaces import EditContext, Steerer

if TYPE_CHECKING:
    from torch import Tensor


class OverallMean(Steerer):
    """h + norm · m̂, m the mean activation of all labelled spans' windows of the same source and layer."""

    direction = "mean"

    def edit(self, hidden: Tensor, at: EditContext) -> Tensor:
        return hidden + at.norm * at.direction
