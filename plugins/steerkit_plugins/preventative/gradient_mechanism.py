"""What does a defence do to the gradients that would train the trait in?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from pydantic import Field

from steerkit.artifacts import Placed
from steerkit.context import Run
from steerkit.data.draws import ISOTROPIC, OVER, draw_name
from steerkit.errors import Problem
from steerkit.findings import Claim, Figure, Findings, Lines, Series, Table
from steerkit.parts import Experiment
from steerkit.report import words
from steerkit.settings import Intervals, Steering
from steerkit.stats.intervals import Estimate
from steerkit.steps.results import Results
from steerkit.steps.vectors import Vectors
from steerkit.training.settings import Training
from steerkit_plugins.preventative.arms import (
    INOCULATION,
    NEUTRAL,
    RANDOM,
    SHUFFLED,
    TrainedConfig,
    instruction,
    steered_name,
    unknown_models,
)
from steerkit_plugins.preventative.gradient_figures import Read
from steerkit_plugins.preventative.gradients import MECHANISM, NONE, Gradients, Setting

PRESSURE = 1e4  # what pressures are multiplied by, to be read


class GradientMechanismConfig(TrainedConfig):
    strengths: tuple[float, ...] = Field(min_length=1)
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
        told = [f"{_called(name)} {words.number(PRESSURE * own.pressure_of(name).mean(), 2)}" for name in names]
        return Findings(
            title="Gradients before training",
            question="What does a defence do to the gradients that would train the trait in?",
            finding=f"Pressure along the vector on the trait's answers, × 10⁴: {', '.join(told)}.",
            claims=tuple(claims),
            figures=(self._curves(own, layer), self._layers(own, names, main)),
            tables=(_table(own, names),),
            notes=(
                f"Gradients g of the mean loss on {self.config.rows} training rows' response tokens, before training, "
                f"at block {layer}'s output. Pressure is ⟨−g, v̂⟩: above 0, a training step pushes activations along "
                "the vector. Δ is the change from the gradients without a defence, of the same response tokens.",
                f"Intervals are over {self.config.groups} groups of rows. The participation ratio is that of the "
                "spectrum of the tokens' uncentred second moments: 1 for one direction.",
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
            estimate, digits = own.estimate(values), 2 if scale != 1.0 else 3
            yield Claim(
                text=text,
                verdict="holds" if estimate.low > 0 else "does not hold" if estimate.high < 0 else "unclear",
                difference=words.number(scale * estimate.mean, digits),
                interval=_interval(estimate, scale, digits),
                n=estimate.n,
                detail="× 10⁴" if scale != 1.0 else detail,
            )

    def _curves(self, own: Read, layer: int) -> Figure:
        """Loss and pressure against the strength."""
        at = {0.0: NONE} | {s: steered_name(s) for s in sorted(self.config.strengths)}
        panels = (
            _curve("Loss", "nats a response token", at, lambda name: own.estimate(own.loss_of(name))),
            _curve(
                "Pressure along the vector",
                "⟨−g, v̂⟩ × 10⁴",
                at,
                lambda name: own.estimate(own.pressure_of(name)),
                PRESSURE,
                level=0.0,
            ),
        )
        return Figure(
            name="gradient-curves",
            title="Loss and pressure",
            caption=f"The vector added at block {layer} while gradients are read, times its fitted length.",
            heading=f"{self.config.rows} training rows before training, intervals over {self.config.groups} groups",
            panels=panels,
        )

    def _layers(self, own: Read, names: Sequence[str], main: str) -> Figure:
        """Cosines with the vector's direction of each block."""
        shown = [name for name in names if name in (NONE, main, RANDOM, INOCULATION)]
        panels = []
        for title, of in (("cos(−g, v)", own.cosine), ("cos(Δ(−g), v)", own.delta_cosine)):
            lines = [
                _line(_called(name), own, partial(of, name), look)
                for look, name in enumerate(shown)
                if name != NONE or of == own.cosine
            ]
            panels.append(
                Lines(title=title, xlabel="block", ylabel="cosine", series=tuple(lines), level=0.0, mark=own.layer)
            )
        strength = words.short(self.config.strength)
        return Figure(
            name="gradient-cosines",
            title="Gradients and the vector, block by block",
            caption="Cosines of the mean gradient, and of its change, with the vector's direction of each block.",
            heading=f"{self.config.rows} training rows before training, vector × {strength}",
            panels=tuple(panels),
        )


def _curve(
    title: str,
    ylabel: str,
    at: Mapping[float, str],
    of: Callable[[str], Estimate],
    scale: float = 1.0,
    level: float | None = None,
) -> Lines:
    found = {strength: of(name) for strength, name in at.items()}
    line = Series(
        name="vector added",
        x=tuple(found),
        y=tuple(scale * each.mean for each in found.values()),
        low=tuple(scale * each.low for each in found.values()),
        high=tuple(scale * each.high for each in found.values()),
    )
    return Lines(title=title, xlabel="vector added, times its length", ylabel=ylabel, series=(line,), level=level)


def _line(name: str, own: Read, of: Callable[[int], float], look: int) -> Series:
    return Series(name=name, x=tuple(map(float, own.blocks)), y=tuple(map(of, own.blocks)), look=look)


def _table(own: Read, names: Sequence[str]) -> Table:
    """A row a setting."""
    rows = []
    for name in names:
        loss, pressure = own.estimate(own.loss_of(name)), own.estimate(own.pressure_of(name))
        changed = name != NONE
        rows.append(
            (
                _called(name),
                f"{words.number(loss.mean, 3)} {_interval(loss, 1.0, 3)}",
                f"{words.number(PRESSURE * pressure.mean, 2)} {_interval(pressure, PRESSURE, 2)}",
                words.number(own.cosine(name, own.layer), 2),
                words.number(own.delta_cosine(name, own.layer), 2) if changed else words.NOTHING,
                words.number(own.moments[name].participation(own.site), 1),
            )
        )
    headings = (
        "while gradients are read",
        "loss",
        "pressure × 10⁴",
        "cos(−g, v)",
        "cos(Δ(−g), v)",
        "participation ratio, of Δg (of g without a defence)",
    )
    return Table(headings=headings, rows=tuple(rows))


def _interval(estimate: Estimate, scale: float, digits: int) -> str:
    return f"[{words.number(scale * estimate.low, digits)}, {words.number(scale * estimate.high, digits)}]"


def _called(name: str) -> str:
    return {NONE: "nothing", INOCULATION: "asked for the trait", NEUTRAL: "neutral instruction"}.get(
        name,
        {RANDOM: "isotropic vector", SHUFFLED: "shuffled labels' vector"}.get(
            name, name.replace("steered-", "vector × ")
        ),
    )
