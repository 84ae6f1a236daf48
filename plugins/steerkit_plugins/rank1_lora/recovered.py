"""How much of what full fine-tuning changes an adapter brings back: gain and ratio, in losses and in texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from steerkit.findings import Table
from steerkit.report import words
from steerkit.stats.intervals import Estimate, mean_interval
from steerkit.stats.two_level import contrast_interval
from steerkit_plugins.experiments.shares import Share, share_of
from steerkit_plugins.trained.measured import Measured

BASE, FULL = "base", "full"


def gain(values: Mapping[str, np.ndarray], arm: str, sign: int, confidence: float) -> Share | None:
    """(arm − base) / (full − base): how much of what full fine-tuning changes is there; None where it is not shown to
    change anything.

    Args:
        values: [prompts, seeds] of each, seeds 1 for base and full.
        sign: 1 where up is better, −1 where down is.
    """
    four = values[arm], values[BASE], values[FULL], values[BASE]
    return share_of(*four, sign=sign, confidence=confidence)


def ratio(values: Mapping[str, np.ndarray], arm: str, confidence: float) -> Share | None:
    """arm / full; None where full is not shown to be above 0."""
    nothing = np.zeros_like(values[FULL])
    return share_of(values[arm], nothing, values[FULL], nothing, sign=1, confidence=confidence)


def told(share: Share | None) -> str:
    """A share in words; a dash where there is none."""
    return share.text() if share else words.NOTHING


class Losses:
    """Held-out losses by model: nats a learned token.

    Args:
        rows: model → [learned tokens, loss per learned token] of each row.
        arms: arm → its models, one a training seed.
    """

    def __init__(
        self, rows: Mapping[str, Sequence[Sequence[float]]], arms: Mapping[str, Sequence[str]], confidence: float
    ) -> None:
        self.confidence = confidence
        tokens = np.array([row[0] for row in next(iter(rows.values()))])
        weight = tokens / tokens.mean()  # a row counts by its tokens: the mean is the loss per token
        self.values = {
            arm: np.stack([weight * np.array([row[1] for row in rows[name]]) for name in names], 1)
            for arm, names in arms.items()
        }
        """Arm → [rows, seeds]."""

    def mean(self, arm: str) -> Estimate:
        """Over rows and training seeds."""
        return contrast_interval([(1.0, self.values[arm])], confidence=self.confidence)

    def recovered(self, arm: str) -> Share | None:
        """(base − arm) / (base − full)."""
        return gain(self.values, arm, -1, self.confidence) if FULL in self.values else None


def recovery_table(found: Sequence[Measured], losses: Losses | None, names: Mapping[str, str]) -> Table:
    """A row an arm: gain and ratio of each metric, and the recovered loss."""
    headings, columns = ["trained"], list[list[str]]()
    if losses is not None:
        headings.append("held-out loss: gain")
        columns.append([told(losses.recovered(arm)) for arm in names])
    for measured in found:
        if not measured.has(BASE, FULL):
            continue
        own, title = measured.values, measured.metric.title
        headings += [f"{title}: gain", f"{title}: ratio"]
        sign = measured.metric.sign or (1 if np.nanmean(own[FULL]) >= np.nanmean(own[BASE]) else -1)
        columns.append([told(gain(own, arm, sign, measured.confidence)) for arm in names])
        columns.append([told(ratio(own, arm, measured.confidence)) for arm in names])
    rows = tuple((name, *(column[number] for column in columns)) for number, name in enumerate(names.values()))
    return Table(
        title="Recovered",
        headings=tuple(headings),
        rows=rows,
        note="gain = (it − base) / (full − base); ratio = it / full; a dash where full fine-tuning changes nothing.",
    )


def lengths(words_by_prompt: Sequence[np.ndarray], confidence: float) -> str:
    """Mean words of texts with an interval over prompts.

    Args:
        words_by_prompt: [prompts] mean words, one a training seed.
    """
    found = mean_interval(np.mean(words_by_prompt, 0), confidence=confidence)
    return f"{words.number(found.mean)} [{words.number(found.low)}, {words.number(found.high)}]"
