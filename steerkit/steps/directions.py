"""What every report with a vector says of it: is it more than noise, more than its trace, and what does it tell?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from torch import Tensor

from steerkit import registry
from steerkit.artifacts import PluginSpec
from steerkit.context import Run
from steerkit.data.draws import OVER, WITHIN, kind_of
from steerkit.data.statistics import ActivationStatistics
from steerkit.data.trace import Item, Span, Trace
from steerkit.extraction.projecting import project_windows
from steerkit.models.models import Models
from steerkit.parts import Step
from steerkit.report.directions import Row, findings_of
from steerkit.settings import Drawing, Fitting, Intervals, Reading
from steerkit.stats.detection import auroc
from steerkit.steps.findings import write_data
from steerkit.steps.statistics import TRACES, drawn
from steerkit.steps.vectors import Vectors
from steerkit.steps.wanted import draws_of, fits_of, fitter_of
from steerkit.store.files import write_json
from steerkit.vectors.facts import cosine, left_out, reliability, split_half_cosines, top_share
from steerkit.vectors.fit import fit_drawn
from steerkit.vectors.steering_vector import SteeringVector

FILE, DATA, PAIRS = "findings/directions.json", "directions.csv", "directions.cosines.csv"


@dataclass(frozen=True)
class WindowPiece:
    """Traces of a model, and the directions that the windows in them are projected on."""

    model: str
    items: tuple[Item, ...]
    extractor: PluginSpec
    window: tuple[int, int]
    layers: tuple[int, ...]
    rays: tuple[tuple[Tensor, Tensor], ...]
    which: dict[str, int]
    batch_tokens: int

    def __len__(self) -> int:
        return len(self.items)


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
            folds = left_out(self._fitter(run, name), own)
            if folds is None:
                continue  # no folds, or too few traces with the label
            items = sorted(run.models.items(name, traces, spans[0]), key=lambda item: (len(item.ids), item.trace.id))
            draws = drawn(run, name, items, (), draws_of(run, name)[1])
            found += [
                WindowPiece(
                    model=name,
                    items=tuple(items[begin : begin + TRACES]),
                    extractor=s.extractor,
                    window=draws.window,
                    layers=own.windows[draws.window].layers,
                    rays=tuple(folds),
                    which={item.trace.id: draws.of[item.trace.id].fold for item in items[begin : begin + TRACES]},
                    batch_tokens=s.batch_tokens,
                )
                for begin in range(0, len(items), TRACES)
            ]
        return found

    def work(self, models: Models, piece: WindowPiece) -> list[tuple[str, str, list[list[float | None]]]]:
        found = project_windows(
            models[piece.model],
            piece.items,
            registry.build("extractors", piece.extractor),
            piece.window,
            [ray for ray, _ in piece.rays],
            piece.which,
            piece.layers,
            batch_tokens=piece.batch_tokens,
            on_batch=lambda done, total: models.progress(len(piece) * done // total),
        )
        away = {trace: values - piece.rays[piece.which[trace]][1].numpy() for trace, values in found.items()}
        return [
            (piece.model, trace, [[None if np.isnan(v) else float(v) for v in row] for row in values])
            for trace, values in away.items()
        ]

    def join(
        self,
        run: Run,
        results: Iterable[list[tuple[str, str, list[list[float | None]]]]],
        traces: list[Trace],
        spans: tuple[list[Span], Any],
        vectors: Vectors,
        *statistics: ActivationStatistics,
    ) -> tuple[list[Row], list[Row]]:
        """Rows of the models' directions, and of pairs of directions."""
        along: dict[str, dict[str, np.ndarray]] = {}
        for model, trace, values in (row for result in results for row in result):
            along.setdefault(model, {})[trace] = np.array(values, np.float64)
        rows: list[Row] = []
        nulls: dict[str, dict[str, list[SteeringVector]]] = {}
        for name, own in zip(self._sources(run), statistics, strict=True):
            fitter, vector = self._fitter(run, name), vectors[run.vector(name)]
            nulls[name] = {kind: _drawn_vectors(fitter, own, kind) for kind in (WITHIN, OVER)}
            halves = reliability(split_half_cosines(fitter, own, seed=run.seed))
            items = run.models.items(name, traces, spans[0]) if name in along else ()
            hits = {item.trace.id: np.array([s.label == vector.info.label for s in item.spans], bool) for item in items}
            for index, layer in enumerate(vector.layers):
                direction = vector.direction(layer)
                row: Row = {
                    "source": name,
                    "label": vector.info.label,
                    "layer": layer,
                    **_spread("reliability", halves[:, index]),
                    "top_share": top_share(direction),
                    **{
                        column: value
                        for kind, drawn_vectors in nulls[name].items()
                        for column, value in _spread(
                            f"cos_{kind}", np.array([cosine(direction, v.direction(layer)) for v in drawn_vectors])
                        ).items()
                    },
                }
                rows.append({**row, **self._told(run, along.get(name, {}), hits, index)})
        return rows, _alike(vectors, nulls)

    def _fitter(self, run: Run, source: str) -> Any:
        return fitter_of(run.use(Fitting).fitter, run.vector(source))

    def _told(self, run: Run, along: Mapping[str, np.ndarray], hits: Mapping[str, np.ndarray], layer: int) -> Row:
        """How well the projection tells the label's windows from others, on traces that it is not fitted to."""
        s, found = run.use(Intervals), Row()
        kept = {trace: ~np.isnan(values[:, layer]) for trace, values in along.items() if len(values)}
        scores = {trace: along[trace][own, layer] for trace, own in kept.items() if own.any()}
        for column, centred in (("auroc", False), ("auroc_in_trace", True)):
            estimate = auroc(
                [values - values.mean() if centred else values for values in scores.values()],
                [hits[trace][kept[trace]] for trace in scores],
                confidence=s.confidence,
                resamples=s.resamples,
                seed=run.seed,
            )
            found |= {column: estimate.mean, f"{column}_low": estimate.low, f"{column}_high": estimate.high}
        windows = sum(map(len, scores.values()))
        return {**found, "n_windows": windows, "n_traces": estimate.n} if scores else {}

    def save(self, run: Run, value: tuple[list[Row], list[Row]]) -> Sequence[str]:
        rows, pairs = value
        found = findings_of(rows, pairs, level=f"{100 * run.use(Intervals).confidence:g} %")
        write_data(run.folder / DATA, rows)
        write_data(run.folder / PAIRS, pairs)
        write_json(run.folder / FILE, {"findings": found.to_json(), "rows": [], "comparisons": []})
        return [FILE, DATA, PAIRS]

    def load(self, run: Run) -> None:
        return None  # the report reads the files


def _spread(name: str, values: np.ndarray) -> Row:
    """Median, least and most of values; empty where there are none."""
    if not len(values):
        return {}
    return {name: float(np.median(values)), f"{name}_least": float(values.min()), f"{name}_most": float(values.max())}


def _drawn_vectors(fitter: Any, statistics: ActivationStatistics, kind: str) -> list[SteeringVector]:
    """The vectors of a kind of draws."""
    names = statistics.drawn.names if statistics.drawn else ()
    return [fit_drawn(fitter, statistics, name) for name in names if kind_of(name)[0] == kind]


def _alike(vectors: Vectors, nulls: dict[str, dict[str, list[SteeringVector]]]) -> list[Row]:
    """A row a pair and layer: the cosine of two judged directions, and those with shuffled ones of the second's model.

    Pairs are of one label by two models, or of two labels by one.
    """
    keys = [key for key in vectors if not key.draw and key.pool == "own" and key.source in nulls]
    found = []
    for one, other in combinations(keys, 2):
        differ = [name for name in ("source", "label", "window") if getattr(one, name) != getattr(other, name)]
        a, b = vectors[one], vectors[other]
        if differ not in (["source"], ["label"]) or a.width != b.width:
            continue
        for layer in (layer for layer in a.layers if layer in b.layers):
            chance = [abs(cosine(a.direction(layer), v.direction(layer))) for v in nulls[other.source][OVER]]
            own = cosine(a.direction(layer), b.direction(layer))
            found.append(
                {
                    "one": f"{one.source} {one.label}",
                    "other": f"{other.source} {other.label}",
                    "layer": layer,
                    "cosine": own,
                    **({"chance_95": float(np.quantile(chance, 0.95))} if chance else {}),
                    **({"beyond": sum(abs(own) > value for value in chance), "draws": len(chance)} if chance else {}),
                }
            )
    return found
