"""Do defended models still represent the trait? Projections on the vector before and after training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from pydantic import Field

from steerkit.artifacts import VectorKey
from steerkit.context import Run
from steerkit.errors import Problem
from steerkit.findings import Bars, Figure, Findings, Table
from steerkit.report import words
from steerkit.settings import Intervals, Steering
from steerkit.stats.intervals import Estimate
from steerkit.stats.two_level import contrast_interval
from steerkit.steps.results import Results
from steerkit.training.arms import Arm
from steerkit.training.settings import Training
from steerkit_plugins.preventative.arms import INOCULATION, NONE, ArmsOf, TrainedConfig, steered_name
from steerkit_plugins.preventative.compared import TrainedExperiment
from steerkit_plugins.preventative.projections import PROJECTION
from steerkit_plugins.trained.measured import UNTRAINED
from steerkit_plugins.trained.numbers import above_zero, shown
from steerkit_plugins.trained.words import few_seeds, over_seeds


class TraitProjectionConfig(TrainedConfig):
    strength: float = Field(gt=0)
    """Multiplier of the fitter's scale at which the vector is added in training."""
    instruction: str = ""
    """What asks for the trait in training; empty for no such arm."""


class TraitProjection(TrainedExperiment):
    """How far along the vector do activations lie after each defence, on the same held-out responses?"""

    Config = TraitProjectionConfig
    uses = (Training, Steering, Intervals)

    def check(self, run: Run) -> Iterator[Problem]:
        yield from super().check(run)
        if run.use(Training).held_out is None:
            yield Problem("held_out", f"is left out, and {self.name} reads held-out responses", "name a source of rows")

    def needs(self, run: Run) -> Sequence[str]:
        return ("trait-projections",)

    def arms(self, run: Run) -> Sequence[Arm]:
        c, of = self.config, ArmsOf(run, self.config)
        asked = [of.told(INOCULATION, c.instruction)] if c.instruction else []
        return [of.none(), of.steered(c.strength), *asked]

    def key(self, run: Run) -> VectorKey:
        """The vector."""
        return run.vector(self.config.source or next(iter(run.models)))

    def read_models(self, run: Run) -> list[tuple[str, str, int]]:
        """(model, arm, seed) of each model that is read; the untrained one has no seed of its own."""
        arms, seeds = self.arms(run), run.use(Training).training_seeds
        return [(arms[0].model, UNTRAINED, -1), *((arm.trained(s), arm.name, s) for arm in arms for s in seeds)]

    def findings(self, run: Run, results: Results, projections: dict[str, list[float]]) -> Findings:
        by_arm: dict[str, list[list[float]]] = {}
        for name, arm, _ in self.read_models(run):
            by_arm.setdefault(arm, []).append(projections[name])
        values = {arm: np.array(own).T for arm, own in by_arm.items()}  # [rows, seeds]
        confidence, layer = run.use(Intervals).confidence, run.use(Steering).layer
        added = f"vector × {words.short(self.config.strength)}"
        called = {UNTRAINED: "not trained", NONE: "no defence", INOCULATION: "asked for the trait"}
        names = {arm: called.get(arm, added) for arm in values}

        def moved(one: str, other: str) -> Estimate:
            return contrast_interval([(1.0, values[one] - values[other])], confidence=confidence)

        means = {arm: contrast_interval([(1.0, own)], confidence=confidence) for arm, own in values.items()}
        claims = []
        for arm, text, detail in (
            (steered_name(self.config.strength), "The vector in training lowers the projection", "the paper: it falls"),
            (INOCULATION, "Asking for the trait in training lowers the projection", "the paper: unchanged"),
        ):
            if arm in values:
                claims.append(above_zero(text, moved(UNTRAINED, arm), 2, detail=detail))
        told = ", ".join(f"{name} {words.number(means[arm].mean, 2)}" for arm, name in names.items())
        rows = [
            (name, shown(means[arm], 2), words.NOTHING if arm == UNTRAINED else shown(moved(arm, UNTRAINED), 2))
            for arm, name in names.items()
        ]
        return Findings(
            title="Projection on the vector",
            question="How far along the vector do activations lie after each defence?",
            finding=f"Mean projection of held-out responses at block {layer}: {told}.",
            claims=tuple(claims),
            figures=(
                Figure(
                    name=PROJECTION,
                    title="Projection on the vector",
                    caption="The same held-out responses, read by each model: mean over response tokens of ⟨h, v̂⟩ at "
                    f"block {layer}.",
                    heading=f"n = {len(values[UNTRAINED])} responses, {over_seeds(run)}",
                    panels=(
                        Bars(
                            title="Projection",
                            ylabel="⟨h, v̂⟩",
                            names=tuple(names.values()),
                            values=tuple(means[arm].mean for arm in names),
                            low=tuple(means[arm].low for arm in names),
                            high=tuple(means[arm].high for arm in names),
                        ),
                    ),
                ),
            ),
            tables=(Table(headings=("trained with", "⟨h, v̂⟩", "after minus before"), rows=tuple(rows)),),
            cautions=few_seeds(run),
            value={claim.text: claim.verdict for claim in claims},
        )
