"""The strength with the most of a metric whose texts stay whole, for any model, vector and score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pydantic import Field

from steerkit.artifacts import Condition
from steerkit.context import Run
from steerkit.errors import Problem, SteerkitError, nearest
from steerkit.judging.metrics import RunMetric
from steerkit.judging.scored import mean_of
from steerkit.steps.scores import metrics_of_run
from steerkit_plugins.experiments.choosing import Limit, StrengthChoice
from steerkit_plugins.experiments.sweep import SweptConfig, swept, unknown


class StrengthConfig(SweptConfig):
    metric: str = ""
    """What the strength is chosen by, on the choose prompts; the score judge's main metric when left out. The best mean
    wins, and of equal ones the smaller strength."""
    least: dict[str, float] = Field(default_factory=dict)
    """Metric → the least mean that a strength's texts must have: `{coherence: 50}`."""
    most: dict[str, float] = Field(default_factory=dict)
    """Metric → the largest mean that they may have."""
    max_collapsed: float = Field(default=0.2, ge=0, le=1)
    """The largest share of generations that may be collapsed."""


class ChosenStrength(StrengthChoice):
    """Which strength? A model with the vector at every strength, on prompts of its own."""

    Config = StrengthConfig

    def check(self, run: Run) -> Iterator[Problem]:
        yield from super().check(run)
        yield from unknown(self, run)
        try:
            names = [metric.name for metric in metrics_of_run(run)]
        except SteerkitError:
            return
        for option in ("least", "most"):
            for name in getattr(self.config, option):
                if name not in names:
                    yield Problem(f"{self.name}.{option}.{name}", f"there is no metric {name!r}", nearest(name, names))

    def conditions(self, run: Run) -> Sequence[Condition]:
        return swept(self, run)

    def limits(self, metrics: Mapping[str, RunMetric]) -> Sequence[Limit]:
        c = self.config
        least = [self._limit(metrics[name], bound, 1) for name, bound in c.least.items()]
        most = [self._limit(metrics[name], bound, -1) for name, bound in c.most.items()]
        return [*least, *most, Limit.collapsed(c.max_collapsed, f"{self.name}.max_collapsed")]

    def _limit(self, metric: RunMetric, bound: float, sign: int) -> Limit:
        """A mean of at least `bound` (sign 1), or of at most so much (-1)."""
        return Limit(
            f"{self.name}.{'least' if sign > 0 else 'most'}.{metric.name} ({bound:g})",
            lambda results, condition: mean_of(results.scored.by_prompt(condition, metric)[1]),
            lambda value: sign * (value - bound) >= 0,
            lambda value: f"{metric.title} {metric.text(value)}",
        )
