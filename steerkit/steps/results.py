"""What an experiment's texts say: a row a condition and metric, and its pairs compared prompt by prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from steerkit.artifacts import Condition, Pair
from steerkit.data.generated import Generation
from steerkit.findings import Findings
from steerkit.judging.metrics import JUDGED, RunMetric
from steerkit.judging.scored import Scored, mean_of, perplexity
from steerkit.stats.intervals import holm, mean_interval, pairing_gain

Row = dict[str, Any]
FIGURES = (
    "metric",
    "mean",
    "sd",
    "ci_low",
    "ci_high",
    "n_prompts",
    "n_apart",
    "degenerate",
    "n_nonempty",
    "n_collapsed",
    "mean_words",
    "longest_repeat",
    "distinct_2",
    "perplexity",
    "judge",
    "scale",
    "added_norm",
    "chosen",
)
"""Columns of results.csv behind the labels'."""
DIFFERENCES = (
    "delta",
    "ci_low",
    "ci_high",
    "n_prompts",
    "n_apart",
    "degenerate",
    "holds",
    "p",
    "p_holm",
    "pairing_gain",
    "chosen",
)
"""Columns of comparisons.csv behind the labels' of both sides."""


@dataclass(frozen=True)
class Found:
    """What an experiment leaves: its findings, and its rows of the tables."""

    findings: Findings
    rows: list[Row]
    comparisons: list[Row]


def seen(artifact: Any) -> Any:
    """An artifact as an experiment that needs it is given it: of another experiment the findings."""
    return artifact.findings if isinstance(artifact, Found) else artifact


@dataclass(frozen=True)
class Results:
    """An experiment's texts, scored.

    Attributes:
        name: what its rows are called in the tables.
        conditions: in its order.
        pairs: that are compared.
        scored: scores of the split.
        generations: texts of its conditions, by condition and prompt as they were written.
        norms: condition's id → L2 norm that it adds.
        scale: what strength 1 adds, in a word.
        confidence: level of the intervals.
    """

    name: str
    split: str
    conditions: Sequence[Condition]
    pairs: Sequence[Pair]
    scored: Scored
    generations: Sequence[Generation]
    norms: dict[str, float]
    scale: str
    confidence: float

    @property
    def metrics(self) -> Sequence[RunMetric]:
        """What its figures are of."""
        return self.scored.metrics

    @cached_property
    def rows(self) -> list[Row]:
        """A row a condition and metric: labels and figures (see `FIGURES`), values in the metric's unit."""
        return [self._row(condition, metric) for condition in self.conditions for metric in self.metrics]

    def _row(self, condition: Condition, metric: RunMetric) -> Row:
        own = list(self.scored[condition].values())
        filled = [score for score in own if score.words]
        values = self.scored.by_prompt(condition, metric)[1]
        estimate = mean_interval(values, confidence=self.confidence, bounds=metric.limits)
        return {
            "experiment": self.name,
            "split": self.split,
            **condition.labels,
            "metric": metric.name,
            "mean": estimate.mean,
            "sd": estimate.sd,
            "ci_low": estimate.low,
            "ci_high": estimate.high,
            "n_prompts": estimate.n,
            "n_apart": estimate.apart,
            "degenerate": estimate.degenerate,
            "n_nonempty": len(filled),
            "n_collapsed": sum(score.collapsed for score in own),
            "mean_words": mean_of(score.words for score in own),
            "longest_repeat": max((score.repeat for score in own), default=0),
            "distinct_2": mean_of(score.distinct for score in filled),
            "perplexity": perplexity(own),
            "judge": metric.judge,
            "scale": self.scale,
            "added_norm": round(self.norms[condition.id], 6),
            "condition": condition.id,
        }

    @cached_property
    def comparisons(self) -> list[Row]:
        """A row a pair and metric: paired differences by prompt, the first side minus the other.

        `p_holm` is adjusted over all of the experiment's pairs, metric by metric.
        """
        rows = [self._compare(pair, metric) for pair in self.pairs for metric in self.metrics]
        for metric in self.metrics:
            family = [row for row in rows if row["metric"] == metric.name]
            for row, adjusted in zip(family, holm([row["p"] for row in family]), strict=True):
                row["p_holm"] = adjusted
        return rows

    def _compare(self, pair: Pair, metric: RunMetric) -> Row:
        """The first side's own collapsed texts may count as unsteered ones (`*_uncollapsed`), the other's never do.

        `holds`: the whole interval lies on the better side of 0, above it for a metric that is better neither up nor
        down.
        """
        ours = dict(zip(*self.scored.by_prompt(pair.ours, metric), strict=True))
        theirs = dict(zip(*self.scored.by_prompt(pair.other, metric, plain=True), strict=True))
        both = np.array([(ours[p], theirs[p]) for p in ours]).reshape(-1, 2)
        estimate = mean_interval(both[:, 0] - both[:, 1], confidence=self.confidence, bounds=metric.difference)
        holds = estimate.high < 0 if metric.sign < 0 else estimate.low > 0
        return {
            "experiment": self.name,
            "split": self.split,
            **pair.ours.labels,
            "added_norm": round(self.norms[pair.ours.id], 6),
            "metric": metric.name,
            **{f"vs_{name}": value for name, value in pair.other.labels.items()},
            "delta": estimate.mean,
            "ci_low": estimate.low,
            "ci_high": estimate.high,
            "n_prompts": estimate.n,
            "n_apart": estimate.apart,
            "degenerate": estimate.degenerate,
            "holds": bool(holds and not estimate.degenerate),
            "p": estimate.p,
            "pairing_gain": pairing_gain(*both.T),
            "condition": pair.ours.id,
            "vs_condition": pair.other.id,
        }

    def metric(self, name: str) -> RunMetric:
        """A metric by its name, also one that no text has a value of."""
        return self.scored.metric(name)

    @property
    def shown(self) -> list[RunMetric]:
        """The metrics that figures have a panel of, and tables a column: the score judge's, and judged sentences."""
        return [metric for metric in self.metrics if metric.shown]

    @property
    def score(self) -> RunMetric:
        """The metric that claims are made about; judged sentences where the score judge has none of its own."""
        main = next((metric for metric in self.metrics if metric.main), None)
        return self.metric(JUDGED) if main is None else main

    def uncollapsed(self, metric: RunMetric) -> RunMetric | None:
        """The same with collapsed texts counted as unsteered ones; None where there is no such metric."""
        return next((other for other in self.metrics if other.plain == metric.name), None)

    @property
    def level(self) -> str:
        """Level of the intervals, ``95 %``."""
        return f"{100 * self.confidence:g} %"

    @property
    def alpha(self) -> float:
        """What p lies below where a difference is told."""
        return round(1 - self.confidence, 12)

    def row(self, condition: Condition, metric: str) -> Row:
        """A condition's row of a metric."""
        return next(row for row in self.rows if (row["condition"], row["metric"]) == (condition.id, metric))

    def comparison(self, ours: Condition, other: Condition, metric: str) -> Row | None:
        """The row of a pair that is compared, None for another."""
        wanted = (ours.id, other.id, metric)
        found = (r for r in self.comparisons if (r["condition"], r["vs_condition"], r["metric"]) == wanted)
        return next(found, None)

    def texts(self, condition: Condition) -> list[Generation]:
        """A condition's texts, prompt by prompt."""
        return [row for row in self.generations if row.condition == condition.id]
