"""Figure 2: window start × strength. All windows are fitted to the same spans."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from steerkit import registry
from steerkit.artifacts import Condition, Pair, VectorKey
from steerkit.context import Run
from steerkit.errors import Problem
from steerkit.findings import Claim, Figure, Findings
from steerkit.interfaces import Config
from steerkit.report import words
from steerkit.settings import Reading, Steering, Whole, distinct
from steerkit.steps.compose import beside, over_places, table
from steerkit.steps.results import Results
from steerkit.steps.vectors import Vectors
from steerkit_plugins.backtracking.choose import AtChosenStrength
from steerkit_plugins.backtracking.conditions import BASE, REASONING, fitted, is_plain, plain, unknown_models
from steerkit_plugins.backtracking.sweeps import best, strengths_of, sweep_heading, swept_pairs
from steerkit_plugins.backtracking.words import title_of, window


class OffsetsConfig(Config):
    starts: Whole = (-40, -34, -27, -20, -13, -8, -4, 0)
    """First token offsets of the windows that are compared; all read the same spans."""
    width: int = Field(default=6, ge=1)
    """Tokens a window."""
    source: str = BASE
    """Model whose activations the windows are read from (the paper's figure 2: reasoning)."""
    strengths: Annotated[tuple[float, ...] | Literal["all"] | None, AfterValidator(distinct)] = None
    """Strengths to run: a list, `all` of the recipe's, or the chosen one when left out."""

    def windows(self) -> tuple[tuple[int, int], ...]:
        """Inclusive offsets of each window."""
        return tuple((start, start + self.width - 1) for start in self.starts)


class Offsets(AtChosenStrength):
    """At which tokens, relative to a labelled sentence, must activations be read for a vector that steers?"""

    Config = OffsetsConfig
    uses = (Steering, Reading)

    def check(self, run: Run) -> Iterator[Problem]:
        yield from unknown_models(run, {"offsets.source": self.config.source})
        have = list(registry.build("extractors", run.use(Reading).extractor).windows())
        widest = max(have, key=lambda w: w[1] - w[0])
        shown = ", ".join(f"{a}..{b}" for a, b in have)
        for index, (a, b) in enumerate(self.config.windows()):
            if a < widest[0] or b > widest[1]:
                what = f"window {a}..{b} is outside the extracted {shown}"
                yield Problem(f"offsets.starts.{index}", what, "widen extractor.sweep, or leave this start out")

    def vectors(self, run: Run) -> Sequence[VectorKey]:
        return [run.vector(self.config.source, window=window, pool="sweep") for window in self.config.windows()]

    def conditions(self, run: Run, vectors: Vectors, choice: Findings) -> Sequence[Condition]:
        wanted = strengths_of(run, self.config.strengths, choice)
        swept = [
            fitted(run, self.config.source, REASONING, strength, vector=key)
            for key in self.vectors(run)
            for strength in wanted
        ]
        return [plain(run, REASONING), *swept]

    def _is_own(self, run: Run, condition: Condition) -> bool:
        window = (condition.labels["window_start"], condition.labels["window_end"])
        return window == run.vector(self.config.source).window

    def pairs(self, run: Run, conditions: Sequence[Condition]) -> Sequence[Pair]:
        return swept_pairs(conditions, lambda c: self._is_own(run, c))

    def findings(self, run: Run, results: Results, vectors: Vectors, choice: Findings) -> Findings:
        source, unsteered = self.config.source, plain(run, REASONING)
        swept = [c for c in results.conditions if not is_plain(c)]
        heading = f"Window that the vector is fitted to, block {run.peek(Steering).layer}"
        figure = Figure(
            name="offsets",
            title="Where the vector is read",
            caption=f"{source.capitalize()}-derived vectors of other windows, all fitted to the same spans, on the "
            "reasoning model. Windows are token offsets from the first token of a labelled sentence; negative ones lie "
            "before it.",
            heading=sweep_heading(heading, results, swept),
            panels=over_places(
                results,
                {"": swept},
                lambda c: (float(c.labels["window_start"]), window_of(c).replace("..", " to ")),  # 0..5 reads as 0.5
                "window, tokens from the sentence's first token",
                own=lambda c: self._is_own(run, c),
                unsteered=unsteered,
            ),
        )
        columns = {
            "vector": lambda c: "none" if is_plain(c) else f"{source}-derived",
            "window": lambda c: words.NOTHING if is_plain(c) else window_of(c),
            "strength": lambda c: words.short(c.labels["strength"]),
        }
        return Findings(
            title="Where the vector is read",
            question="At which tokens, relative to a labelled sentence, must activations be read?",
            claims=tuple(self._beside(run, results, swept, choice.value["strength"])),
            figures=(figure,),
            tables=(table(results, columns),),
        )

    def _beside(self, run: Run, results: Results, swept: Sequence[Condition], strength: float) -> list[Claim]:
        """The fitted window against the latest one (0..5 where it was run), and the order of all of them."""
        at = [c for c in swept if c.labels["strength"] == strength]
        own = next((c for c in at if self._is_own(run, c)), None)
        others = [c for c in at if c is not own]
        if own is None or not others:
            return []
        zero = [c for c in others if c.labels["window_start"] == 0]
        other = (zero or [max(others, key=lambda c: c.labels["window_start"])])[0]
        found = []
        for metric in results.shown:
            row = results.comparison(own, other, metric.name)
            text = f"{title_of(metric)}, window {window_of(own)} minus {window_of(other)}"
            if row is not None:
                found.append(beside(results, row, text, best(results, at, metric, window_of)))
        return found


def window_of(condition: Condition) -> str:
    """A condition's window in words."""
    labels: Any = condition.labels
    return window(labels["window_start"], labels["window_end"])
