"""Does moving the best scalar turn the model back, more than moving another one by as much?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from pydantic import Field

from steerkit.artifacts import Condition, Pair
from steerkit.context import Run
from steerkit.errors import Problem, SteerkitError
from steerkit.findings import Findings
from steerkit.judging.metrics import unchoosable
from steerkit.parts import Experiment
from steerkit.settings import Steering
from steerkit.steps.results import Results
from steerkit.steps.scores import metrics_of_run
from steerkit.training.arms import Arm
from steerkit.training.settings import Training
from steerkit_plugins.rank1_lora.arms import adapter_arm
from steerkit_plugins.rank1_lora.chosen_units import SAE, SCALARS, best_latent, best_unit
from steerkit_plugins.rank1_lora.scalar_steering_findings import Said
from steerkit_plugins.rank1_lora.unit_conditions import (
    BEST,
    LATENT,
    NONE,
    RANDOM,
    VECTOR,
    MovedConfig,
    adding_to,
    strengths_of,
    unknown,
)
from steerkit_plugins.trained.words import few_seeds, heading


class ScalarSteeringConfig(MovedConfig):
    strength: float | None = Field(default=None, gt=0)
    """The strength that claims are about; the largest when left out."""
    chosen_by: str = ""
    """Experiment whose finding gives that strength instead (`scalar-strength`)."""
    draws: int = Field(default=8, ge=1)
    """Random other scalars, and isotropic directions at the best one's site: so many for each training seed."""
    seed: int = 0
    """Which scalars these are."""
    one_seed: bool = False
    """Only the first training seed's model is steered."""
    latent: bool = True
    """Whether the best latent is steered with, too, where the run has the experiment `sae`."""
    least: float = Field(default=0.1, ge=0, lt=1)
    """Sites with a smaller share of the latent's norm than this are left out."""
    metric: str = ""
    """Metric that claims are about; the score judge's first one when left out."""
    margin: float = Field(default=0.25, gt=0, lt=1)
    """A claim does not hold where its effect is shown to be below this share of what the best scalar changes."""


class ScalarSteering(Experiment):
    """Does moving the best scalar do more than other scalars, directions of its site, and the vector, norm for norm?"""

    Config = ScalarSteeringConfig
    uses = (Training, Steering)

    def check(self, run: Run) -> Iterator[Problem]:
        yield from unknown(self, run)
        if self.config.strength is not None and self.config.chosen_by:
            yield Problem(f"{self.name}.strength", "is given, and chosen_by too", "leave one out")
        with suppress(SteerkitError):  # the scores say what is wrong with a judge
            yield from unchoosable(f"{self.name}.metric", self.config.metric, metrics_of_run(run))

    def arms(self, run: Run) -> Sequence[Arm]:
        return [adapter_arm(self.config)]

    def needs(self, run: Run) -> Sequence[str]:
        latent = self.config.latent and SAE in run.experiments
        chosen_by = [self.config.chosen_by] if self.config.chosen_by else []
        return ("training", "vectors", SCALARS, *([SAE] if latent else []), *chosen_by)

    def _named(self, run: Run, needs: Sequence[Any]) -> dict[str, Any]:
        return dict(zip(self.needs(run), needs, strict=True))

    def _strength(self, run: Run, needs: Mapping[str, Any]) -> float:
        """The strength that claims are about."""
        if chosen_by := self.config.chosen_by:
            return float(needs[chosen_by].value["strength"])
        return self.config.strength or max(strengths_of(run, self.config))

    def _seeds(self, run: Run) -> Sequence[int]:
        seeds = run.use(Training).training_seeds
        return seeds[:1] if self.config.one_seed else seeds

    def conditions(self, run: Run, *needs: Any, **_: Any) -> Sequence[Condition]:
        c, named = self.config, self._named(run, needs)
        at = self._strength(run, named)
        found = []
        for seed in self._seeds(run):
            adding = adding_to(run, c, seed, named["vectors"])
            best = best_unit(named[SCALARS], adding)
            found.append(adding.unsteered())
            for strength in sorted({*strengths_of(run, c), at}):
                found += [adding.unit(BEST, *best, strength)] if best else []
                found.append(adding.vector(strength))
                if SAE in named and (latent := best_latent(named[SAE], adding)):
                    found.append(adding.latent(*latent, strength, c.least))
            if best:
                others = adding.other_units(best[0], c.draws, c.seed)
                found += [adding.unit(RANDOM, *other, at, number) for number, other in enumerate(others)]
                found += [adding.isotropic(best[0].site, at, number) for number in range(c.draws)]
        return found

    def pairs(self, run: Run, conditions: Sequence[Condition]) -> Sequence[Pair]:
        plain = {c.model: c for c in conditions if c.labels["arm"] == NONE}
        return [Pair(ours=c, other=plain[c.model]) for c in conditions if c.labels["arm"] in (BEST, VECTOR, LATENT)]

    def chosen(self, condition: Condition, findings: Findings, *needs: Any) -> bool:
        return condition.labels["arm"] == BEST and condition.labels["strength"] == findings.value["strength"]

    def findings(self, run: Run, results: Results, *needs: Any, **_: Any) -> Findings:
        c, strength = self.config, self._strength(run, self._named(run, needs))
        said = Said(results, strength, c.metric, c.margin, c.draws)
        one = len(self._seeds(run)) == 1
        caution = "One training seed: intervals cover prompts and draws, and nothing is said about another training."
        return Findings(
            title="Steering one scalar",
            question="Does moving the best scalar do more than other scalars and directions, norm for norm?",
            finding=said.sentence(),
            claims=(claims := tuple(said.claims())),
            figures=tuple(said.figures(self.name, said.heading() if one else heading(run, results))),
            tables=(said.table(),),
            cautions=(caution,) if one else few_seeds(run),
            notes=tuple(said.notes(run.peek(Steering).layer)),
            value={
                "strength": strength,
                "best": said.scalars,
                **{claim.text: claim.verdict for claim in claims if claim.kind == "claim"},
            },
        )
