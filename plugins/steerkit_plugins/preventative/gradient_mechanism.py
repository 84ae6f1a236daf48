"""What does a defence do to the gradients that would train the trait in?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydantic import Field

from steerkit.artifacts import Placed
from steerkit.context import Run
from steerkit.data.draws import ISOTROPIC, OVER, draw_name
from steerkit.errors import Problem
from steerkit.findings import Claim, Findings
from steerkit.parts import Experiment
from steerkit.report import words
from steerkit.settings import Intervals, Steering
from steerkit.steps.results import Results
from steerkit.steps.vectors import Vectors
from steerkit.training.settings import Training
from steerkit_plugins.preventative.arms import (
    INOCULATION,
    NEUTRAL,
    NONE,
    RANDOM,
    SHUFFLED,
    Strengths,
    TrainedConfig,
    instruction,
    steered_name,
    unknown_models,
)
from steerkit_plugins.preventative.gradient_figures import PRESSURE, called, curves, layers, table
from steerkit_plugins.preventative.gradient_read import Read
from steerkit_plugins.preventative.gradients import MECHANISM, Gradients, Setting
from steerkit_plugins.trained.numbers import above_zero


class GradientMechanismConfig(TrainedConfig):
    strengths: Strengths
    """Multipliers of the fitter's scale at which the vector is added while gradients are read."""
    strength: float = Field(gt=0)
    """That of them which claims are about, fixed beforehand; control vectors have its norm."""
    instruction: str
    """What asks for the trait while gradients are read."""
    neutral: str = ""
    """An instruction that asks for nothing; empty for no such setting."""
    rows: int = Field(default=128, ge=2)
    """Training rows whose gradients are read."""
    groups: int = Field(default=16, ge=2)
    """Groups of rows: intervals are over them."""


class GradientMechanism(Experiment):
    """What does a defence do to the gradients that would train the trait in?"""

    Config = GradientMechanismConfig
    uses = (Training, Steering, Intervals)

    def check(self, run: Run) -> Iterator[Problem]:
        yield from unknown_models(self.name, run, self.config)
        if self.config.rows < 2 * self.config.groups:
            yield Problem(
                f"{MECHANISM}.groups", "leaves fewer than two rows a group", "give more rows, or fewer groups"
            )

    def needs(self, run: Run) -> Sequence[str]:
        return ("training-gradients", "vectors")

    def vectors(self, run: Run) -> Sequence[object]:
        placed = [p for setting in self.settings(run) for p in setting.interventions]
        return [p.vector for p in placed if p.vector and p.vector.draw]

    def model_of(self, run: Run) -> str:
        """The model whose gradients are read."""
        return self.config.model or run.models.writer

    def settings(self, run: Run) -> list[Setting]:
        """Nothing, the vector at each strength, its controls at the largest, and instructions."""
        c = self.config
        main = run.vector(c.source or next(iter(run.models)))

        def placed(strength: float, draw: str = "") -> tuple[Placed, ...]:
            key = run.vector(main.source, draw=draw) if draw else main
            return (run.place(key, strength, norm_of=main),)

        told = {INOCULATION: c.instruction, NEUTRAL: c.neutral}
        return [
            Setting(name=NONE),
            *(Setting(name=steered_name(s), interventions=placed(s)) for s in sorted(c.strengths)),
            Setting(name=RANDOM, interventions=placed(c.strength, draw_name(ISOTROPIC, 0))),
            Setting(name=SHUFFLED, interventions=placed(c.strength, draw_name(OVER, 0))),
            *(Setting(name=name, **instruction(c.place, text)) for name, text in told.items() if text),
        ]

    def findings(self, run: Run, results: Results, found: Gradients, vectors: Vectors) -> Findings:
        layer = run.peek(Steering).layer
        vector = vectors[run.vector(self.config.source or next(iter(run.models)))]
        own = Read(found, {block: vector.direction(block) for block in vector.layers}, layer, run.use(Intervals))
        names = [setting.name for setting in self.settings(run)]
        main = steered_name(self.config.strength)
        claims = list(self._claims(own, main))
        c = self.config
        heading = f"{c.rows} training rows before training, {c.groups} groups"
        told = [f"{called(name)} {words.number(PRESSURE * own.pressure_of(name).mean(), 2)}" for name in names]
        return Findings(
            title="Gradients before training",
            question="What does a defence do to the gradients that would train the trait in?",
            finding=f"Pressure along the vector on the trait's answers, × 10⁴: {', '.join(told)}.",
            claims=tuple(claims),
            figures=(
                curves(own, self.config.strengths, heading),
                layers(own, [name for name in names if name in (NONE, main, RANDOM, INOCULATION)], heading),
            ),
            tables=(table(own, names),),
            notes=(
                f"Gradients g of the mean loss on {self.config.rows} training rows' response tokens, before training, "
                f"at block {layer}'s output. Pressure is ⟨−g, v̂⟩: above 0, a training step pushes activations along "
                "the vector. Δ is the change from the gradients without a defence, of the same response tokens.",
                f"Intervals are over {self.config.groups} groups of rows. The participation ratio is that of the "
                "spectrum of the tokens' uncentred second moments: 1 for one direction.",
                f"cos(Δg of the vector, Δg of asking) at block {layer}: "
                f"{words.number(own.alignment(main, INOCULATION), 2)}.",
            ),
            value={claim.text: claim.verdict for claim in claims},
        )

    def _claims(self, own: Read, main: str) -> Iterator[Claim]:
        """What the paper says, in its order; each one that a difference is above 0."""
        pressure, loss, spread = own.pressure_of, own.loss_of, own.participation_of
        for text, values, scale, detail in (
            ("Training on the trait's answers pushes along the vector", pressure(NONE), PRESSURE, ""),
            ("The vector, added, lowers that pressure", pressure(NONE) - pressure(main), PRESSURE, ""),
            ("The vector, added, turns the pressure around", -pressure(main), PRESSURE, ""),
            ("Asking for the trait lowers that pressure", pressure(NONE) - pressure(INOCULATION), PRESSURE, ""),
            ("Asking for the trait lowers the loss", loss(NONE) - loss(INOCULATION), 1.0, ""),
            ("The vector, added, raises the loss", loss(main) - loss(NONE), 1.0, "the paper: need not lower it"),
            (
                "Asking changes gradients in more dimensions than the vector does",
                spread(INOCULATION) - spread(main),
                1.0,
                "participation ratios of Δg",
            ),
        ):
            digits, more = (2, "× 10⁴") if scale != 1.0 else (3, detail)
            yield above_zero(text, own.estimate(values), digits, scale, more)
