"""One metric of trained models: values by prompt and training seed, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from steerkit.artifacts import Condition
from steerkit.findings import Bars, Claim, Table
from steerkit.judging.metrics import ACCURACY, OTHERS, RunMetric
from steerkit.report import words
from steerkit.stats.intervals import Estimate, constant_interval, holm
from steerkit.stats.two_level import contrast_interval
from steerkit.steps.results import Results
from steerkit_plugins.experiments.measured import estimated

Verdict = Literal["holds", "does not hold", "unclear", "higher", "lower", "no clear difference", ""]

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
                seed = str(condition.labels[SEED])
                columns.setdefault(group_of(condition), {}).setdefault(seed, []).append(own)
        self.values: Mapping[str, np.ndarray] = {
            arm: np.stack([np.mean(own, 0) for own in by_seed.values()], 1) for arm, by_seed in columns.items()
        }
        """Arm → [prompts, seeds]; [prompts, 1] for the untrained model. Draws of a control are averaged."""

    def has(self, *names: str) -> bool:
        """Whether there are values of all of these."""
        return all(name in self.values for name in names)

    def mean(self, arm: str) -> Estimate:
        """Of an arm over prompts and seeds."""
        return self._estimate(self.values[arm], self.metric.limits)

    def difference(self, one: str, other: str) -> Estimate:
        """One arm minus another, paired by prompt and seed."""
        return self._estimate(self.values[one] - self.values[other], self.metric.difference)

    def _estimate(self, values: np.ndarray, bounds: tuple[float, float]) -> Estimate:
        """The mean of [prompts, seeds] values. That all agree (all hedge, none does) is common where a trait is
        learned."""
        found = contrast_interval([(1.0, values)], confidence=self.confidence, bounds=bounds)
        if found.degenerate and np.isfinite(bounds).all():
            return constant_interval(found, confidence=self.confidence, bounds=bounds)
        return found

    def verdict(self, estimate: Estimate, least: float) -> Verdict:
        """Of an effect that is claimed to be above 0: does not hold where it is shown to be below `least`."""
        if estimate.high < least:
            return "does not hold"
        return "holds" if estimate.low > 0 else "unclear"

    def claim(self, text: str, lower: str, higher: str, least: float, *, detail: str = "") -> Claim:
        """That one arm has less than another.

        Args:
            least: the smallest effect that counts, in the metric's unit.
        """
        estimate = self.difference(higher, lower)
        if words.missing(estimate.mean):
            return Claim(text=text, verdict="cannot be told", n=estimate.n)
        verdict = self.verdict(estimate, least)
        return Claim(text=text, verdict=verdict, detail=detail, **self._figures(estimate))

    def beside(self, pairs: Mapping[str, tuple[str, str]]) -> list[Claim]:
        """Differences that nothing was claimed about, the first arm minus the second; corrected for their number."""
        found = {text: self.difference(*arms) for text, arms in pairs.items()}
        adjusted = holm([estimate.p for estimate in found.values()])
        claims = []
        for (text, estimate), p in zip(found.items(), adjusted, strict=True):
            clear = not words.missing(p) and p < self.results.alpha
            told: Verdict = "higher" if clear and estimate.mean > 0 else "lower" if clear else "no clear difference"
            detail = "" if words.missing(p) else f"p {words.p_value(p)} after Holm over {len(found)}"
            figures = {} if words.missing(estimate.mean) else self._figures(estimate)
            verdict: Verdict = "" if words.missing(estimate.mean) else told
            claims.append(
                Claim(kind="beside", text=text, verdict=verdict, detail=detail, **{"n": estimate.n, **figures})
            )
        return claims

    def _figures(self, estimate: Estimate) -> dict[str, Any]:
        return {
            "difference": words.value(estimate.mean, self.metric, signed=True),
            "interval": words.interval(estimate.low, estimate.high, self.metric, signed=True),
            "n": estimate.n,
        }

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
            title=self.metric.title,
            ylabel=words.cut(words.unit(self.metric)),
            names=tuple(names.values()),
            values=column([each.mean for each in found]),
            low=column([each.low for each in found]),
            high=column([each.high for each in found]),
        )


def labels(arm: str, seed: int | str, *, draw: int | str = "", shown: str = "") -> dict[str, str | int]:
    """What tells a trained model's texts from others.

    Args:
        draw: number of a control vector.
        shown: what the model is given at test beside the prompt; empty for nothing.
    """
    return {ARM: arm, SEED: seed, "draw": draw, "shown": shown}


def shown_with(arm: str, shown: str) -> str:
    """An arm's name in figures, where it is given something at test."""
    return f"{arm} | {shown}" if shown else arm


def group_of(condition: Condition) -> str:
    """Conditions of one name differ by training seed, or by the draw of a control, alone."""
    return shown_with(str(condition.labels[ARM]), str(condition.labels["shown"]))


def by_metric(results: Results, main_metric: str = "") -> dict[str, Measured]:
    """The metrics that reports show, the one that claims are about first.

    Args:
        main_metric: its name; the score judge's first one when left out.
    """
    main = results.scored.metric(main_metric) if main_metric else results.score
    ordered = [main, *(metric for metric in results.shown if metric.name != main.name)]
    return {metric.name: Measured(results, metric) for metric in ordered}


def with_beside(results: Results, main_metric: str = "") -> dict[str, Measured]:
    """Those of `by_metric`, then the share of sentences that fit no label, and right answers."""
    found = by_metric(results, main_metric)
    beside = [metric for metric in results.metrics if metric.name in (OTHERS, ACCURACY)]
    return found | {metric.name: Measured(results, metric) for metric in beside if metric.name not in found}


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
