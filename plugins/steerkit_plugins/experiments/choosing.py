"""A strength chosen by a metric, among those whose texts are whole: what experiments that choose one share."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from steerkit.artifacts import Condition
from steerkit.context import Run
from steerkit.errors import Problem, SteerkitError
from steerkit.findings import Findings
from steerkit.interfaces import Config
from steerkit.judging.metrics import RunMetric, unchoosable
from steerkit.judging.scored import mean_of
from steerkit.parts import Experiment
from steerkit.report import words
from steerkit.settings import Steering
from steerkit.steps.compose import table
from steerkit.steps.results import Results
from steerkit.steps.scores import metrics_of_run


@dataclass(frozen=True)
class Limit:
    """What the texts of a strength must have at least, or may have at most.

    Attributes:
        option: the recipe's option with its value, ``choose.max_other (35%)``.
        value: the figure of a condition.
        within: whether a figure is within the limit; not called for NaN, which never is.
        shown: the figure in words.
    """

    option: str
    value: Callable[[Results, Condition], float]
    within: Callable[[float], bool]
    shown: Callable[[float], str]

    @classmethod
    def collapsed(cls, most: float, option: str) -> Limit:
        """Of the share of generations that repeat themselves."""
        return cls(
            f"{option} ({most:.0%})",
            lambda results, condition: mean_of(float(s.collapsed) for s in results.scored[condition].values()),
            lambda share: share <= most,
            lambda share: f"{share:.0%} of its generations collapsed",
        )


def best_strength(results: Results, metric: RunMetric, limits: Sequence[Limit]) -> tuple[float, str]:
    """The strength with the best mean of a metric within the limits, ties to the smaller, and in words how it came so.

    Where none is within the limits, the best of all is taken.

    Raises:
        SteerkitError: all texts broke off.
    """
    found, lost = [], []
    for condition in results.conditions:
        strength = float(condition.labels["strength"])
        if not strength:
            continue
        if results.scored.is_broken(condition):
            lost.append(strength)
            continue
        figures = [limit.value(results, condition) for limit in limits]
        value = mean_of(results.scored.by_prompt(condition, metric)[1])
        damaged = any(math.isnan(x) or not limit.within(x) for limit, x in zip(limits, figures, strict=True))
        rank = math.inf if math.isnan(value) else -metric.sign * value
        found.append((damaged, rank, strength, value, figures))
    broke = f"texts broke off (values that are not finite) at {', '.join(f'{strength:g}' for strength in lost)}"
    if not found:
        raise SteerkitError(
            f"no strength can be chosen: {broke}; lower strengths, or load the models in float32 or bfloat16 (the "
            "texts are kept)"
        )
    damaged, _, strength, value, figures = min(found, key=lambda each: each[:3])
    name = metric.name.replace("_", " ")
    if math.isnan(value):
        return strength, f"strength {strength:g} is taken: no text of the choose prompts has a value of {name}"
    shown = ", ".join(limit.shown(figure) for limit, figure in zip(limits, figures, strict=True))
    how = (
        f"strength {strength:g} has the {'lowest' if metric.sign < 0 else 'highest'} {name} on the choose prompts "
        f"({'; '.join(part for part in (metric.text(value), shown) if part)})"
    )
    if damaged:
        how += f"; every strength was beyond the limits of {' or '.join(limit.option for limit in limits)}"
    return strength, f"{how}; {broke}" if lost else how


class StrengthChoice(Experiment):
    """An experiment whose finding is a strength, ``value["strength"]``. Its config has `metric`."""

    split = "choose"
    uses: ClassVar[tuple[type[Config], ...]] = (Steering,)

    @abstractmethod
    def limits(self, metrics: Mapping[str, RunMetric]) -> Sequence[Limit]:
        """Limits of a strength's texts, of the run's metrics."""

    def columns(self) -> Mapping[str, Callable[[Condition], str]]:
        """Columns that name a condition in the table."""
        return {"strength": lambda condition: words.short(condition.labels["strength"])}

    def check(self, run: Run) -> Iterator[Problem]:
        try:
            metrics = metrics_of_run(run)
        except SteerkitError:
            return  # the scores say what is wrong; or a judge reads its labels from files that are not there yet
        yield from unchoosable(f"{self.name}.metric", self.config.metric, metrics)

    def findings(self, run: Run, results: Results) -> Findings:
        metric = results.metric(self.config.metric) if self.config.metric else results.score
        limits = self.limits({each.name: each for each in results.metrics})
        chosen, how = best_strength(results, metric, limits)
        run.log(chosen_strength=chosen, how=how)
        return Findings(
            title="How the strength was chosen",
            notes=(f"{how[:1].upper()}{how[1:]}.",),
            tables=(table(results, self.columns(), strong=lambda c: c.labels["strength"] == chosen),),
            value={"strength": chosen, "how": how},
        )

    def chosen(self, condition: Condition, findings: Findings, *needs: Any) -> bool:
        return bool(condition.labels["strength"] == findings.value["strength"])

    def planned(self, run: Run) -> Findings:
        return Findings(title="", value={"strength": run.peek(Steering).nonzero[0]})
