"""The strength at which the best scalar is moved, found on prompts that no claim is made on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field

from steerkit.artifacts import Condition
from steerkit.context import Run
from steerkit.errors import Problem
from steerkit.findings import Findings
from steerkit.judging.metrics import OTHERS, RunMetric
from steerkit.judging.scored import mean_of
from steerkit.settings import Steering
from steerkit.steps.results import Results
from steerkit.steps.vectors import Vectors
from steerkit.training.arms import Arm
from steerkit.training.settings import Training
from steerkit_plugins.experiments.choosing import Limit, StrengthChoice
from steerkit_plugins.experiments.measured import capital
from steerkit_plugins.rank1_lora.arms import adapter_arm
from steerkit_plugins.rank1_lora.chosen_units import SCALARS, best_unit
from steerkit_plugins.rank1_lora.unit_conditions import BEST, MovedConfig, adding_to, strengths_of, unknown


class ScalarStrengthConfig(MovedConfig):
    metric: str = ""
    """What the strength is chosen by, on the choose prompts; the score judge's main metric when left out. The best mean
    wins, and of equal ones the smaller strength."""
    max_other: float = Field(default=0.35, ge=0, le=1)
    """A strength is left out when more than this share of its sentences fits no label (text damage) ..."""
    max_collapsed: float = Field(default=0.2, ge=0, le=1)
    """... or more than this share of its generations is collapsed."""


class ScalarStrength(StrengthChoice):
    """Which strength? The best scalar of the first training seed's model, moved by each norm, on prompts of its own."""

    Config = ScalarStrengthConfig
    uses = (Training, Steering)

    def check(self, run: Run) -> Iterator[Problem]:
        yield from super().check(run)
        yield from unknown(self, run)

    def arms(self, run: Run) -> Sequence[Arm]:
        return [adapter_arm(self.config)]

    def needs(self, run: Run) -> Sequence[str]:
        return ("training", "vectors", SCALARS)

    def conditions(
        self, run: Run, trained: Any, vectors: Vectors | None, scalars: Findings | None
    ) -> Sequence[Condition]:
        adding = adding_to(run, self.config, run.use(Training).training_seeds[0], vectors)
        best = best_unit(scalars, adding)
        steered = [adding.unit(BEST, *best, s) for s in strengths_of(run, self.config)] if best else []
        return [adding.unsteered(), *steered]

    def limits(self, metrics: Mapping[str, RunMetric]) -> Sequence[Limit]:
        most = self.config.max_other
        other = Limit(
            f"{self.name}.max_other ({most:.0%})",
            lambda results, condition: mean_of(s.value(OTHERS) for s in results.scored[condition].values()),
            lambda share: share <= most,
            lambda share: f"{share:.0%} of its sentences fit no label",
        )
        return [other, Limit.collapsed(self.config.max_collapsed, f"{self.name}.max_collapsed")]

    def findings(self, run: Run, results: Results, *needs: Any) -> Findings:
        if len(results.conditions) > 1:
            return super().findings(run, results)
        how = f"{SCALARS} has chosen no scalar, so that no strength could be chosen for it"
        return replace(self.planned(run), title="How the strength was chosen", notes=(f"{capital(how)}.",))

    def planned(self, run: Run) -> Findings:
        return Findings(title="", value={"strength": strengths_of(run, self.config)[0]})
