"""What every report with a vector says of it: is it more than noise, more than its trace, and what does it tell?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from steerkit.context import Run
from steerkit.data.statistics import ActivationStatistics
from steerkit.data.trace import Span, Trace
from steerkit.models.models import Models
from steerkit.parts import Step
from steerkit.report.directions import Row, findings_of
from steerkit.settings import Drawing, Fitting, Intervals, Reading
from steerkit.steps.direction_facts import Projections, WindowPiece, alike, facts_of, project, shuffled, window_pieces
from steerkit.steps.findings import write_data
from steerkit.steps.statistics import drawn
from steerkit.steps.vectors import Vectors
from steerkit.steps.wanted import draws_of, fits_of, fitter_of
from steerkit.store.files import write_json
from steerkit.vectors.steering_vector import SteeringVector

FILE, DATA, PAIRS = "findings/directions.json", "directions.csv", "directions.cosines.csv"


class Directions(Step):
    """``findings/directions.json`` and ``directions.csv``: facts of each model's vector, block by block.

    Reliability, and cosines on the scale of shuffled labels, come from sums. What the direction tells of traces that
    it is not fitted to is read in a second forward: numbers, not activations, are kept of it.
    """

    uses = (Drawing, Fitting, Reading, Intervals)

    def needs(self, run: Run) -> Sequence[str]:
        return ("traces", "spans", "vectors", *(f"statistics.{name}" for name in self._sources(run)))

    def models(self, run: Run) -> Sequence[str]:
        return [name for name in self._sources(run) if draws_of(run, name)[1]]

    def _sources(self, run: Run) -> list[str]:
        """Models whose vectors these are; one under two names stands once."""
        found: list[str] = []
        for name in dict.fromkeys(key.source for key in fits_of(run)):
            if not any(run.models.alike(other, name) for other in found):
                found.append(name)
        return found

    def pieces(
        self,
        run: Run,
        traces: list[Trace],
        spans: tuple[list[Span], Any],
        vectors: Vectors,
        *statistics: ActivationStatistics,
    ) -> list[WindowPiece]:
        s, found = run.use(Reading), list[WindowPiece]()
        for name, own in zip(self._sources(run), statistics, strict=True):
            if own.drawn is None or not own.drawn.folds:
                continue
            items = sorted(run.models.items(name, traces, spans[0]), key=lambda item: (len(item.ids), item.trace.id))
            draws = drawn(run, name, items, (), draws_of(run, name)[1])
            found += window_pieces(name, self._fitter(run, name), own, items, draws, s.extractor, s.batch_tokens)
        return found

    def work(self, models: Models, piece: WindowPiece) -> list[Projections]:
        return project(models, piece)

    def join(
        self,
        run: Run,
        results: Iterable[list[Projections]],
        traces: list[Trace],
        spans: tuple[list[Span], Any],
        vectors: Vectors,
        *statistics: ActivationStatistics,
    ) -> tuple[list[Row], list[Row]]:
        """Rows of the models' directions, and of pairs of directions."""
        along: dict[str, list[Projections]] = {}
        for each in (each for result in results for each in result):
            along.setdefault(each[0], []).append(each)
        rows: list[Row] = []
        nulls: dict[str, dict[str, list[SteeringVector]]] = {}
        for name, own in zip(self._sources(run), statistics, strict=True):
            fitter, vector = self._fitter(run, name), vectors[run.vector(name)]
            nulls[name] = shuffled(fitter, own)
            items = run.models.items(name, traces, spans[0]) if name in along else ()
            found = facts_of(fitter, vector, own, nulls[name], items, along.get(name, ()), run.use(Intervals), run.seed)
            rows += [{"source": name, **row} for row in found]
        return rows, alike(vectors, nulls)

    def _fitter(self, run: Run, source: str) -> Any:
        return fitter_of(run.use(Fitting).fitter, run.vector(source))

    def save(self, run: Run, value: tuple[list[Row], list[Row]]) -> Sequence[str]:
        rows, pairs = value
        found = findings_of(rows, pairs, level=f"{100 * run.use(Intervals).confidence:g} %")
        write_data(run.folder / DATA, rows)
        write_data(run.folder / PAIRS, pairs)
        write_json(run.folder / FILE, {"findings": found.to_json(), "rows": [], "comparisons": []})
        return [FILE, DATA, PAIRS]

    def load(self, run: Run) -> None:
        return None  # the report reads the files
