"""Figure B.1: block × strength, for vectors of one or both models on the reasoning model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from steerkit.artifacts import Condition, Pair
from steerkit.context import Run
from steerkit.errors import Problem, SteerkitError
from steerkit.findings import Claim, Figure, Findings
from steerkit.interfaces import Config
from steerkit.models.language_model import check_layer
from steerkit.report import words
from steerkit.settings import Steering, Texts, Whole, distinct
from steerkit.steps.compose import beside, over_places, table
from steerkit.steps.results import Results
from steerkit.steps.vectors import Vectors
from steerkit_plugins.backtracking.choose import AtChosenStrength
from steerkit_plugins.backtracking.claims import collapsed_texts, over_unsteered, sentence
from steerkit_plugins.backtracking.conditions import BASE, REASONING, fitted, is_plain, like, plain, unknown_models
from steerkit_plugins.backtracking.sweeps import best, strengths_of, sweep_heading, swept_pairs
from steerkit_plugins.backtracking.words import is_main, title_of, window


class LayersConfig(Config):
    layers: Whole | None = None
    """Blocks whose output is steered, 0-based; every block when left out."""
    sources: Annotated[Texts, Field(min_length=1)] = (BASE,)
    """Models whose vectors are compared (the paper's figure B.1: both)."""
    strengths: Annotated[tuple[float, ...] | Literal["all"] | None, AfterValidator(distinct)] = None
    """Strengths to run: a list, `all` of the recipe's, or the chosen one when left out."""


class Layers(AtChosenStrength):
    """At which block must the vector be added?"""

    Config = LayersConfig
    uses = (Steering,)

    def check(self, run: Run) -> Iterator[Problem]:
        yield from unknown_models(run, {f"layers.sources.{i}": name for i, name in enumerate(self.config.sources)})
        if run.planned:
            return  # the model may be out of reach; a run asks before its first step
        for index, layer in enumerate(self.config.layers or ()):
            try:
                check_layer(layer, REASONING, run.models.depth(REASONING), "layers.layers")
            except SteerkitError as error:
                yield Problem(f"layers.layers.{index}", str(error))

    def conditions(self, run: Run, vectors: Vectors, choice: Findings) -> Sequence[Condition]:
        c = self.config
        blocks = c.layers if c.layers is not None else range(run.models.depth(REASONING))
        swept = [
            fitted(run, source, REASONING, strength, layer=layer)
            for source in c.sources
            for layer in blocks
            for strength in strengths_of(run, c.strengths, choice)
        ]
        return [plain(run, REASONING), *swept]

    def pairs(self, run: Run, conditions: Sequence[Condition]) -> Sequence[Pair]:
        return swept_pairs(conditions, lambda c: like(c, layer=run.peek(Steering).layer))

    def findings(self, run: Run, results: Results, vectors: Vectors, choice: Findings) -> Findings:
        strength, layer = choice.value["strength"], run.peek(Steering).layer
        claims = over_unsteered(run, results, self.name, strength)
        swept = [c for c in results.conditions if not is_plain(c)]
        by_source = {
            f"{source}-derived vector": [c for c in swept if like(c, source=source)] for source in self.config.sources
        }
        figure = Figure(
            name="layers",
            title="Which block",
            caption=f"The {' and the '.join(f'{s}-derived' for s in self.config.sources)} vector of each block, added "
            "at that block's output in the reasoning model.",
            heading=sweep_heading(f"Block, window {window(*run.vector(BASE).window)}", results, swept),
            panels=over_places(
                results,
                by_source,
                lambda c: (float(c.labels["layer"]), block_of(c)),
                "block whose output is steered (0-based)",
                own=lambda c: like(c, layer=layer),
                unsteered=plain(run, REASONING),
            ),
        )
        columns = {
            "vector": lambda c: "none" if is_plain(c) else f"{c.labels['source']}-derived",
            "block": lambda c: words.NOTHING if is_plain(c) else block_of(c),
            "strength": lambda c: words.short(c.labels["strength"]),
        }
        return Findings(
            title="Which block",
            question="At which block must the vector be added?",
            finding=sentence(run, results, claims, strength),
            claims=(
                *claims,
                *(each for s in self.config.sources for each in self._beside(run, results, swept, strength, s)),
            ),
            figures=(figure,),
            tables=(table(results, columns, strong=lambda c: is_main(run, c, strength)),),
            cautions=collapsed_texts(run, results, strength),
        )

    def _beside(
        self, run: Run, results: Results, swept: Sequence[Condition], strength: float, source: str
    ) -> list[Claim]:
        """The steered block against the best other one, and the order of all of them, of a source's vectors."""
        layer = run.peek(Steering).layer
        vector = f", {source}-derived vector" * (len(self.config.sources) > 1)
        at = [c for c in swept if like(c, strength=strength, source=source)]
        own = next((c for c in at if like(c, layer=layer)), None)
        found = []
        for metric in results.shown:
            rows = [(c, results.comparison(own, c, metric.name)) for c in at if own is not None and c is not own]
            there = [(c, row) for c, row in rows if row is not None and not words.missing(row["delta"])]
            if there:
                towards = metric.sign or 1
                other, row = min(there, key=lambda each: (towards * each[1]["delta"], each[0].labels["layer"]))
                text = f"{title_of(metric)}{vector}, block {layer} minus {block_of(other)}, the best other"
                found.append(beside(results, row, text, best(results, at, metric, block_of)))
        return found


def block_of(condition: Condition) -> str:
    """A condition's block in words."""
    return words.short(condition.labels["layer"])
