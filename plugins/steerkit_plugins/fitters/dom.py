"""Difference of means: Eq. 3 of arXiv 2507.12638."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from steerkit.data.windows import Weighting, WindowStatistics
from steerkit.interfaces import FitterConfig, VectorFitter

if TYPE_CHECKING:
    from torch import Tensor


class DifferenceOfMeansConfig(FitterConfig):
    positives: Literal["spans", "traces"] = "spans"
    """D₊: windows before the spans with the label, or (`traces`, the paper's letter) before every labelled
    span of the traces that contain the label."""
    reference: Literal["spans", "rest", "tokens"] = "spans"
    """D: windows before every labelled span, before the spans without the label (D₋), or every token of the
    trace (Venhoff et al.)."""
    weighting: Weighting = "trace"
    """`trace`: one mean a trace, then the mean over traces (Eq. 3); `span`: every span counts the same
    (token-pooled, windows being whole)."""


class DifferenceOfMeans(VectorFitter):
    """v = MeanAct(D₊) − MeanAct(D)."""

    Config = DifferenceOfMeansConfig

    def fit(self, statistics: WindowStatistics) -> Mapping[int, Tensor]:
        c = self.config
        positive = statistics.mean(c.label if c.positives == "spans" else f"with:{c.label}", c.weighting)
        if c.reference == "tokens":
            reference = statistics.tokens_mean()
        else:
            reference = statistics.mean("all" if c.reference == "spans" else f"rest:{c.label}", c.weighting)
        return dict(zip(statistics.layers, positive - reference, strict=True))
