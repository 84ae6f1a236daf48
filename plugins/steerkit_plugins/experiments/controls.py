"""Is it the label, the place in the trace, or just the trace? The vector beside directions that know less."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from steerkit.artifacts import Condition, Pair, VectorKey
from steerkit.context import Run
from steerkit.data.draws import ELSEWHERE, OVER, WITHIN, draw_name
from steerkit.errors import Problem, nearest
from steerkit.findings import Figure, Findings
from steerkit.interfaces import Config
from steerkit.judging.metrics import JUDGED
from steerkit.parts import Experiment
from steerkit.report import words
from steerkit.settings import Steering, distinct
from steerkit.steps.compose import table
from steerkit.steps.results import Results
from steerkit.steps.vectors import Vectors
from steerkit.vectors.facts import cosine
from steerkit_plugins.experiments.measured import CLAIMS, NONE, TRUE, Measured, estimated, name_of

Kind = Literal["within", "elsewhere", "over", "covariance", "isotropic"]
KINDS: tuple[Kind, ...] = ("within", "elsewhere", "over", "covariance", "isotropic")
FITTED = (WITHIN, ELSEWHERE, OVER)  # whose length says something
FEW = 10  # draws


class ControlsConfig(Config):
    source: str = ""
    """Model whose vector it is; the first of the recipe's when left out."""
    target: str = ""
    """Model that is steered; the one that writes the traces when left out."""
    draws: int = Field(default=20, ge=0)
    """Draws of each kind of control: an interval covers other draws as well as other prompts."""
    kinds: Annotated[tuple[Kind, ...], AfterValidator(distinct)] = KINDS
    """Controls: labels shuffled `within` each trace or `over` all, windows `elsewhere` in the same traces that the
    label does not follow, directions of the windows' `covariance`, `isotropic` ones."""
    strength: float | None = Field(default=None, gt=0)
    """Multiplier of the fitter's scale, for the vector and every control; the largest of `strengths` when left out."""
    chosen_by: str = ""
    """Experiment whose finding gives the strength instead (`choose`)."""
    margin: float = Field(default=0.25, gt=0, lt=1)
    """A claim does not hold where a difference is shown to be below this share of the vector's effect; where neither
    this nor the claim is shown, it is unclear."""


class Controls(Experiment):
    """Does the label matter, the place in the trace, or just the trace?"""

    Config = ControlsConfig
    uses = (Steering,)

    def check(self, run: Run) -> Iterator[Problem]:
        c = self.config
        for key, name in (("source", c.source), ("target", c.target)):
            if name and name not in run.models.specs:
                yield Problem(f"controls.{key}", f"no model is called {name!r}", nearest(name, list(run.models.specs)))
        if c.strength is not None and c.chosen_by:
            yield Problem("controls.strength", "is given, and chosen_by too", "leave one out")

    def needs(self, run: Run) -> Sequence[str]:
        return ("vectors", *([self.config.chosen_by] if self.config.chosen_by else []))

    def _key(self, run: Run, draw: str = "") -> VectorKey:
        return run.vector(self.config.source or next(iter(run.models)), draw=draw)

    def _draws(self) -> list[tuple[str, int]]:
        return [(kind, number) for kind in self.config.kinds for number in range(self.config.draws)]

    def vectors(self, run: Run) -> Sequence[VectorKey]:
        if self.config.source and self.config.source not in run.models.specs:
            return []  # `check` says where
        return [self._key(run, draw_name(kind, number)) for kind, number in self._draws()]

    def conditions(self, run: Run, vectors: Vectors, choice: Findings | None = None) -> Sequence[Condition]:
        target, layer = self.config.target or run.models.writer, run.peek(Steering).layer
        strength = self.config.strength or max(run.peek(Steering).nonzero)
        if choice is not None:
            strength = float(choice.value["strength"])
        labels = {"model": target, "layer": layer, "strength": strength}

        def steered(control: str, number: int | str, draw: str) -> Condition:
            own = {**labels, "control": control, "draw": number}
            return run.steered(target, self._key(run, draw), strength, norm_of=self._key(run), labels=own)

        return [
            run.unsteered(target, {**labels, "strength": 0.0, "control": NONE, "draw": ""}),
            steered(TRUE, "", ""),
            *(steered(kind, number, draw_name(kind, number)) for kind, number in self._draws()),
        ]

    def pairs(self, run: Run, conditions: Sequence[Condition]) -> Sequence[Pair]:
        return [Pair(ours=conditions[1], other=conditions[0])]

    def chosen(self, condition: Condition, findings: Findings, *needs: object) -> bool:
        return condition.labels["control"] == TRUE

    def findings(self, run: Run, results: Results, vectors: Vectors, choice: Findings | None = None) -> Findings:
        layer = run.peek(Steering).layer
        true = vectors[self._key(run)].direction(layer)
        drawn = {
            kind: [vectors[self._key(run, draw_name(kind, n))].direction(layer) for n in range(self.config.draws)]
            for kind in self.config.kinds
        }
        cosines: dict[str, list[float]] = {kind: [cosine(true, each) for each in own] for kind, own in drawn.items()}
        lengths: dict[str, list[float]] = {
            kind: [float(each.norm() / true.norm()) for each in own] for kind, own in drawn.items() if kind in FITTED
        }
        main = [metric for metric in results.metrics if metric.main and metric.sign]
        main = sorted(main, key=lambda metric: metric.name != JUDGED)
        found = {metric.name: Measured(results, metric, self.config.margin) for metric in main}
        claims = [claim for measured in found.values() for claim in measured.claims()]
        lost = sum(results.scored.is_broken(condition) for condition in results.conditions)
        strength = words.short(results.conditions[1].labels["strength"])
        label = vectors[self._key(run)].info.label
        return Findings(
            title="Controls",
            question="Does the label matter, the place in the trace, or just the trace?",
            finding=_sentence(found, strength),
            qualifier=_sentence(found, strength, short=True),
            claims=tuple(claims),
            figures=(self._figure(results, found, layer, strength),) if found else (),
            tables=(
                *(measured.table(cosines, lengths, self.config.kinds) for measured in found.values()),
                table(
                    results,
                    {"added": lambda c: name_of(str(c.labels["control"])), "draw": lambda c: str(c.labels["draw"])},
                    strong=lambda c: c.labels["control"] == TRUE,
                    title="Every draw",
                ),
            ),
            cautions=tuple(self._cautions(found, lost)),
            notes=(
                f"Each control is a direction by the same fitter, for {label}, of the same length, on the same tokens "
                "and with the same sampling noise; intervals are paired by prompt and cover draws and prompts.",
                "At one length, what a shuffled direction has of the vector counts for more than it does as fitted, "
                "where it is shorter: the table says by how much.",
                f"A claim does not hold where the difference is shown to be below {self.config.margin:.0%} of the "
                "vector's effect over unsteered, and is unclear where neither is shown.",
            ),
            data={
                "controls.csv": [
                    {
                        "control": kind,
                        "draw": number,
                        "layer": layer,
                        "cosine": value,
                        **({"length": lengths[kind][number]} if kind in lengths else {}),
                    }
                    for kind, values in cosines.items()
                    for number, value in enumerate(values)
                ]
            },
            value={claim.text: claim.verdict for claim in claims},
        )

    def _cautions(self, found: Mapping[str, Measured], lost: int) -> Iterator[str]:
        if self.config.draws < FEW:
            yield (
                f"Few draws: each control rests on {self.config.draws} draws. With fewer than {FEW}, an interval over "
                "draws is wide, and can miss the true value more often than its level says (docs/statistics.md)."
            )
        for measured in found.values():
            if fewer := ", ".join(measured.fewer()):
                yield (
                    f"Prompts left out of {words.named(measured.metric)}, without a value under some draw (as empty "
                    f"texts are): {fewer} prompts. A difference rests on those that have all values of both."
                )
        if lost:
            yield f"Broken draws: {lost} conditions with texts that broke off are left out of the controls."

    def _figure(self, results: Results, found: Mapping[str, Measured], layer: int, strength: str) -> Figure:
        panels = tuple(measured.bars(self.config.kinds) for measured in found.values())
        n = max((int(row["n_prompts"]) for row in results.rows), default=0)
        return Figure(
            name="controls",
            title="Controls",
            caption=f"What is added at block {layer}, at strength {strength}: nothing, the vector, and directions of "
            f"its length that know less, {self.config.draws} draws of each.",
            heading=f"n = {n} prompts, {self.config.draws} draws a control, {results.level} intervals over both",
            panels=panels,
        )


def _sentence(found: Mapping[str, Measured], strength: str, *, short: bool = False) -> str:
    """How much of the effect is left of labels that know less, and what that says.

    Args:
        short: as it stands below another experiment's finding.
    """
    for measured in found.values():
        if not measured.has(NONE, TRUE):
            continue
        what, effect = words.named(measured.metric), measured.difference(TRUE, NONE)
        if measured.share(TRUE) is None:
            begins = "Controls: at" if short else "At"
            return f"{begins} strength {strength} no effect on {what} is shown, so none that controls could share."
        kept = [
            f"{name_of(kind)} keep {share.text()}"
            for kind in (WITHIN, OVER)
            if measured.has(kind) and (share := measured.share(kind)) is not None
        ]
        told = [_told(text, measured.verdict(*sides)) for text, sides in CLAIMS.items() if measured.has(*sides)]
        opening = f"Controls: of the effect on {what}"
        if not short:
            change = estimated(effect, measured.metric, signed=True)
            points = " points" if measured.metric.of else ""
            opening = f"At strength {strength} the vector changes {what} by {change}{points}; of this"
        return f"{opening}, {', '.join(kept)}. {'. '.join(told)}." if kept else ""
    return ""


def _told(claim: str, verdict: str) -> str:
    what = claim.removesuffix(" matters")
    return {
        "holds": f"{what} matters",
        "does not hold": f"{what} is shown to matter little or not at all",
    }.get(verdict, f"Whether {what[:1].lower()}{what[1:]} matters is unclear")
