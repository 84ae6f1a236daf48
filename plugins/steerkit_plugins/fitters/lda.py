"""Diagonal linear discriminant: the difference of means over the pooled variance of each coordinate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field

from steerkit.data.windows import WindowStatistics
from steerkit.interfaces import FitterConfig, VectorFitter

if TYPE_CHECKING:
    from torch import Tensor


class DiagonalLDAConfig(FitterConfig):
    shrinkage: float = Field(default=0.1, ge=0, le=1)
    """Share of the mean variance mixed into every coordinate's (0: none, 1: the plain difference of means)."""


class DiagonalLDA(VectorFitter):
    """w = (μ₊ − μ₋) / σ², with σ² pooled within the two sets of activations at the window's offsets."""

    Config = DiagonalLDAConfig
    needs = frozenset({"means", "squares"})

    def fit(self, statistics: WindowStatistics) -> Mapping[int, Tensor]:
        label, rest = self.config.label, f"rest:{self.config.label}"
        means = {name: statistics.mean(name, "span") for name in (label, rest)}
        weights = {name: statistics.count(name, "span") for name in (label, rest)}
        spread = [weights[n] * (statistics.mean_square(n, "span") - means[n].square()) for n in (label, rest)]
        variance = (spread[0] + spread[1]) / sum(weights.values())
        shrunk = (1 - self.config.shrinkage) * variance + self.config.shrinkage * variance.mean(-1, keepdim=True)
        return dict(zip(statistics.layers, (means[label] - means[rest]) / shrunk, strict=True))
