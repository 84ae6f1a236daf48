"""AUROCs as bars."""

from __future__ import annotations

from collections.abc import Sequence

from steerkit.findings import Bars
from steerkit.report import words
from steerkit.stats.intervals import Estimate


def auroc_bars(title: str, own: Sequence[tuple[str, Estimate]]) -> Bars:
    """A bar with its interval for each (name, AUROC); a dashed line at chance."""
    return Bars(
        title=title,
        ylabel="AUROC",
        names=tuple(called for called, _ in own),
        values=tuple(_number(each.mean) for _, each in own),
        low=tuple(_number(each.low) for _, each in own),
        high=tuple(_number(each.high) for _, each in own),
        level=0.5,
    )


def _number(value: float) -> float | None:
    return None if words.missing(value) else float(value)
