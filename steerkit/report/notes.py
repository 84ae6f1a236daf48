"""How to read the page: what claims, intervals and corrected differences are, in plain words."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from steerkit.judging.metrics import RunMetric
from steerkit.report.run import Run

INTERVALS = (
    "Means and differences are over prompts: several samples of one prompt count as their mean. Intervals are "
    "skew-corrected t intervals (Hall 1992) at the {level} level, each on its own. Shares are in percent, and their "
    "differences in percentage points; other metrics keep their unit."
)
CLAIMS = (
    "Claims were fixed before the run, for settings chosen on other prompts. A claim holds when its whole interval "
    "lies on the claimed side. A claim about every one of several conditions holds only when each comparison does. "
    "Intervals of claims are not corrected for the number of claims."
)
BESIDE = (
    "Other comparisons were not claimed beforehand, and the best of several settings is picked on the same prompts "
    "that it is shown on. “Higher” and “lower” are therefore said only where Holm's correction over all comparisons of "
    "the same experiment and metric leaves p below {alpha}. The intervals shown beside them are not corrected."
)
PAIRING = (
    "Differences are paired: each prompt is compared with itself, with the same random numbers. Over all comparisons "
    "this made the interval {gain} than two independent sets of prompts would (median)."
)


def method_notes(run: Run) -> Iterator[str]:
    """A paragraph each."""
    claims = [claim for part in run.parts for claim in part.findings.claims]
    if run.results.rows or claims:
        yield INTERVALS.format(level=run.level)
    if any(claim.kind == "claim" for claim in claims):
        yield CLAIMS
    if any(claim.kind == "beside" for claim in claims) or run.comparisons.rows:
        yield BESIDE.format(alpha=f"{1 - run.confidence:.3g}")
    gains = [gain for row in run.comparisons.rows if isinstance(gain := row.get("pairing_gain"), float)]
    if gains:
        size = f"{abs(100 * median(gains)):.0f} % {'narrower' if median(gains) >= 0 else 'wider'}"
        yield PAIRING.format(gain=size)


def measured(run: Run) -> list[str]:
    """What each metric is."""
    return [_metric(metric) for metric in run.tabulated]


def _metric(metric: RunMetric) -> str:
    by = f", judged by {metric.judge}" if metric.judge else ""
    better = {"up": "; higher is better", "down": "; lower is better"}.get(metric.better, "")
    about = f": {metric.about}" if metric.about else ""
    return f"{metric.title or metric.name}{about} ({metric.unit}{by}{better})"
