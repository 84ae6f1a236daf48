"""One metric of trained models: values by prompt and training seed, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from steerkit.artifacts import Condition
from steerkit.findings import Bars, Claim, Table
from steerkit.judging.metrics import RunMetric
from steerkit.report import words
from steerkit.stats.intervals import Estimate
from steerkit.stats.two_level import contrast_interval
from steerkit.steps.results import Results
from steerkit_plugins.experiments.measured import estimated

UNTRAINED = "untrained"
ARM, SEED = "arm", "seed"
"""Labels of the conditions."""


class Measured:
    """One metric of all arms.

    Arms of one training seed share their first weights, rows and order, and all share prompts and sampling noise, so
    that differences are paired by prompt and seed. Intervals cover other prompts and other seeds.
    """

    def __init__(self, results: Results, metric: RunMetric) -> None:
        self.results, self.metric = results, metric
        self.confidence, self.level = results.confidence, results.level
        columns: dict[str, dict[str, list[np.ndarray]]] = {}
        for condition in results.conditions:
            if not results.scored.is_broken(condition):
                own = results.scored.by_prompt(condition, metric)[1]
                arm, seed = str(condition.labels[ARM]), str(condition.labels[SEED])
                columns.setdefault(arm, {}).setdefault(seed, []).append(own)
        self.values: Mapping[str, np.ndarray] = {
            arm: np.stack([np.mean(own, 0) for own in by_seed.values()], 1) for arm, by_seed in columns.items()
        }
        """Arm → [prompts, seeds]; [prompts, 1] for the untrained model. Draws of a control are averaged."""

    def has(self, *names: str) -> bool:
        """Whether there are values of all of these."""
        return all(name in self.values for name in names)

    def mean(self, arm: str) -> Estimate:
        """Of an arm over prompts and seeds."""
        return contrast_interval([(1.0, self.values[arm])], confidence=self.confidence, bounds=self.metric.limits)

    def difference(self, one: str, other: str) -> Estimate:
        """One arm minus another, paired by prompt and seed."""
        both = self.values[one] - self.values[other]
        return contrast_interval([(1.0, both)], confidence=self.confidence, bounds=self.metric.difference)

    def verdict(self, estimate: Estimate, least: float) -> Literal["holds", "does not hold", "unclear"]:
        """Of an effect that is claimed to be above 0: does not hold where it is shown to be below `least`."""
        if estimate.low > 0 and not estimate.degenerate:
            return "holds"
        return "does not hold" if estimate.high < least else "unclear"

    def claim(self, text: str, lower: str, higher: str, least: float) -> Claim:
        """That one arm has less than another.

        Args:
            least: the smallest effect that counts, in the metric's unit.
        """
        estimate = self.difference(higher, lower)
        if words.missing(estimate.mean):
            return Claim(text=text, verdict="cannot be told", n=estimate.n)
        interval = words.interval(estimate.low, estimate.high, self.metric, signed=True)
        return Claim(
            text=text,
            verdict=self.verdict(estimate, least),
            difference=words.value(estimate.mean, self.metric, signed=True),
            interval="degenerate" if estimate.degenerate else interval,
            n=estimate.n,
        )

    def rows(self, arms: Sequence[str]) -> list[str]:
        """A cell an arm: its mean with interval."""
        return [estimated(self.mean(arm), self.metric) if self.has(arm) else words.NOTHING for arm in arms]

    def bars(self, names: Mapping[str, str]) -> Bars:
        """A bar an arm.

        Args:
            names: arm → what stands below its bar.
        """
        found, scale = [self.mean(arm) for arm in names], words.factor(self.metric)

        def column(values: Sequence[float]) -> tuple[float | None, ...]:
            return tuple(None if np.isnan(value) else scale * value for value in values)

        return Bars(
            title=words.heading(self.metric),
            ylabel=words.cut(words.unit(self.metric)),
            names=tuple(names.values()),
            values=column([each.mean for each in found]),
            low=column([each.low for each in found]),
            high=column([each.high for each in found]),
        )


def labels(arm: str, seed: int | str, draw: int | str = "") -> dict[str, str | int]:
    """What tells a trained model's texts from others."""
    return {ARM: arm, SEED: seed, "draw": draw}


def by_metric(results: Results) -> dict[str, Measured]:
    """The metrics that reports show, the one that claims are about first."""
    main = results.score
    ordered = [main, *(metric for metric in results.shown if metric.name != main.name)]
    return {metric.name: Measured(results, metric) for metric in ordered}


def missing(results: Results, conditions: Sequence[Condition], metric: RunMetric) -> str:
    """Share of texts without a value: refusals, and texts with nothing to count."""
    values = np.concatenate([results.scored.by_prompt(condition, metric)[1] for condition in conditions])
    return f"{np.isnan(values).mean():.1%}"


def table_of(found: Mapping[str, Measured], names: Mapping[str, str], more: Mapping[str, Sequence[str]]) -> Table:
    """A row an arm: each metric's mean with its interval, then other columns."""
    columns = {
        f"{measured.metric.title}, {words.unit(measured.metric)}": measured.rows(list(names))
        for measured in found.values()
    } | dict(more)
    rows = [(name, *(column[number] for column in columns.values())) for number, name in enumerate(names.values())]
    return Table(headings=("trained with", *columns), rows=tuple(rows))
