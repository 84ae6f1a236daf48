"""The strength that claims are made at, found on prompts that no claim is made on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import Field

from steerkit.artifacts import Condition
from steerkit.context import Run
from steerkit.findings import Findings
from steerkit.interfaces import Config
from steerkit.judging.metrics import OTHERS, RunMetric
from steerkit.judging.scored import mean_of
from steerkit.parts import Experiment
from steerkit.settings import Steering
from steerkit_plugins.backtracking.conditions import BASE, REASONING, fitted, plain
from steerkit_plugins.experiments.choosing import Limit, StrengthChoice


class ChooseConfig(Config):
    metric: str = "judged_sentences"
    """What the strength is chosen by, on the choose prompts: `judged_sentences` or `judged_uncollapsed` (the span
    judge's), `accuracy`, or a metric that the score judge declares, as the keyword judge's `keyword` (and
    `keyword_uncollapsed`, with collapsed texts counted as unsteered). The best mean wins: the highest where up is
    better, the lowest where down is."""
    max_other: float = Field(default=0.35, ge=0, le=1)
    """A strength is left out when more than this share of its sentences fits no label (text damage) ..."""
    max_collapsed: float = Field(default=0.2, ge=0, le=1)
    """... or more than this share of its generations is collapsed."""


class Choose(StrengthChoice):
    """Which strength? The base-derived vector on the reasoning model, at every strength, on prompts of its own."""

    Config = ChooseConfig
    rows = "transfer"

    def conditions(self, run: Run) -> Sequence[Condition]:
        return strengths(run)

    def columns(self) -> Mapping[str, Callable[[Condition], str]]:
        vector = {"vector": lambda c: f"{c.labels['source']}-derived" if c.interventions else "none"}
        return {**vector, **super().columns()}

    def limits(self, metrics: Mapping[str, RunMetric]) -> Sequence[Limit]:
        most = self.config.max_other
        other = Limit(
            f"choose.max_other ({most:.0%})",
            lambda results, condition: mean_of(s.value(OTHERS) for s in results.scored[condition].values()),
            lambda share: share <= most,
            lambda share: f"{share:.0%} of its sentences fit no label",
        )
        return [other, Limit.collapsed(self.config.max_collapsed, "choose.max_collapsed")]


def strengths(run: Run) -> list[Condition]:
    """The reasoning model unsteered, and with the base-derived vector at every strength."""
    return [plain(run, REASONING), *(fitted(run, BASE, REASONING, s) for s in run.peek(Steering).nonzero)]


class AtChosenStrength(Experiment):
    """An experiment whose claims are about the strength that `choose` found."""

    def needs(self, run: Run) -> Sequence[str]:
        return ("vectors", "choose")

    def chosen(self, condition: Condition, findings: Findings, *needs: Any) -> bool:
        choice: Findings = needs[-1]
        return bool(condition.labels["strength"] == choice.value["strength"])
