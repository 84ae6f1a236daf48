"""How much of what separates two models a third one has of it: gain and ratio, and how long texts are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean

import numpy as np

from steerkit.artifacts import Condition
from steerkit.findings import Claim, Table
from steerkit.report import words
from steerkit.stats.intervals import mean_interval
from steerkit.steps.results import Results
from steerkit_plugins.experiments.shares import Share, share_of
from steerkit_plugins.trained.measured import ARM, Measured, Verdict

Ends = tuple[str, str]
"""The arm that has nothing of it, and the one that has all."""


def gain(values: Mapping[str, np.ndarray], arm: str, ends: Ends, sign: int, confidence: float) -> Share | None:
    """(arm − nothing) / (all − nothing): how much of what separates them is there; None where nothing is shown to.

    Args:
        values: [prompts, seeds] of each, seeds 1 for a model that isn't trained.
        sign: 1 where up is better, −1 where down is.
    """
    nothing, whole = ends
    four = values[arm], values[nothing], values[whole], values[nothing]
    return share_of(*four, sign=sign, confidence=confidence)


def ratio(values: Mapping[str, np.ndarray], arm: str, whole: str, confidence: float) -> Share | None:
    """arm / all; None where all is not shown to be above 0."""
    nothing = np.zeros_like(values[whole])
    return share_of(values[arm], nothing, values[whole], nothing, sign=1, confidence=confidence)


def share_text(share: Share | None) -> str:
    """A share in words; a dash where there is none."""
    return share.text() if share else words.NOTHING


def most_claim(text: str, share: Share | None, least: float, n: int) -> Claim:
    """The claim that a share is above `least`; none can be made where what it is a share of is not shown."""
    if share is None:
        return Claim(
            text=text, verdict="cannot be told", n=n, detail="there is nothing shown that it could be a share of"
        )
    verdict: Verdict = "holds" if share.low > least else "does not hold" if share.high < least else "unclear"
    return Claim(text=text, verdict=verdict, n=n, detail=f"{share_text(share)} of it")


def sign_of(measured: Measured, ends: Ends) -> int:
    """1 where all is above nothing, or up is better; −1 where down is."""
    nothing, whole = (np.nanmean(measured.values[arm]) for arm in ends)
    return measured.metric.sign or (1 if whole >= nothing else -1)


def recovery_table(
    found: Sequence[Measured], names: Mapping[str, str], ends: Ends, more: Mapping[str, Sequence[str]], note: str
) -> Table:
    """A row an arm: other columns, then gain and ratio of each metric.

    Args:
        names: arm → its name.
        more: heading → a cell an arm.
    """
    columns: dict[str, Sequence[str]] = dict(more)
    for measured in found:
        if not measured.has(*ends):
            continue
        own, title, sure = measured.values, measured.metric.title, measured.confidence
        sign = sign_of(measured, ends)
        columns[f"{title}: gain"] = [share_text(gain(own, arm, ends, sign, sure)) for arm in names]
        columns[f"{title}: ratio"] = [share_text(ratio(own, arm, ends[1], sure)) for arm in names]
    rows = tuple((name, *(column[number] for column in columns.values())) for number, name in enumerate(names.values()))
    return Table(title="Recovered", headings=("trained", *columns), rows=rows, note=note)


def lengths(results: Results, arms: Sequence[str], confidence: float) -> list[str]:
    """Mean words of each arm's texts, with an interval over prompts."""
    cells = []
    for arm in arms:
        own = [_mean_words(results, c) for c in results.conditions if c.labels[ARM] == arm]
        found = mean_interval(np.mean(own, 0), confidence=confidence)
        cells.append(f"{words.number(found.mean)} [{words.number(found.low)}, {words.number(found.high)}]")
    return cells


def _mean_words(results: Results, condition: Condition) -> np.ndarray:
    """[prompts] of a condition's texts."""
    by_prompt: dict[str, list[int]] = {}
    for (prompt, _), score in results.scored[condition].items():
        by_prompt.setdefault(prompt, []).append(score.words)
    return np.array([mean(own) for _, own in sorted(by_prompt.items())])
