"""Estimates that are of no metric of the run (losses, pressures, projections), in words."""

from __future__ import annotations

from steerkit.findings import Claim
from steerkit.report import words
from steerkit.stats.intervals import Estimate


def shown(estimate: Estimate, digits: int, scale: float = 1.0) -> str:
    """``value [low, high]``, times `scale`."""
    return f"{words.number(scale * estimate.mean, digits)} {interval(estimate, digits, scale)}"


def interval(estimate: Estimate, digits: int, scale: float = 1.0) -> str:
    """``[low, high]``, times `scale`."""
    return f"[{words.number(scale * estimate.low, digits)}, {words.number(scale * estimate.high, digits)}]"


def above_zero(text: str, estimate: Estimate, digits: int, scale: float = 1.0, detail: str = "") -> Claim:
    """The claim that something is above 0: holds where the interval is, does not where all of it lies below."""
    return Claim(
        text=text,
        verdict="holds" if estimate.low > 0 else "does not hold" if estimate.high < 0 else "unclear",
        difference=words.number(scale * estimate.mean, digits),
        interval=interval(estimate, digits, scale),
        n=estimate.n,
        detail=detail,
    )
