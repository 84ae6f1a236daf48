"""Facts of directions, of plain arguments: pieces of a second forward, a row a block, a row a pair of directions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from steerkit import registry
from steerkit.artifacts import PluginSpec
from steerkit.data.draws import OVER, WITHIN, Draws, kind_of
from steerkit.data.pairs import pair_of
from steerkit.data.statistics import ActivationStatistics
from steerkit.data.trace import Item
from steerkit.extraction.projecting import project_windows
from steerkit.interfaces import VectorFitter
from steerkit.models.models import Models
from steerkit.report.directions import Row
from steerkit.settings import Intervals
from steerkit.stats.detection import auroc
from steerkit.steps import statistics as reading
from steerkit.steps.vectors import Vectors
from steerkit.vectors.facts import cosine, left_out, reliability, split_half_cosines, top_share
from steerkit.vectors.fit import fit_drawn
from steerkit.vectors.steering_vector import SteeringVector

if TYPE_CHECKING:
    from torch import Tensor

Projections = tuple[str, str, list[list[float | None]]]
"""Model, trace, and [S, L] of its spans: where their windows lie along a direction, None where they aren't whole."""


@dataclass(frozen=True)
class WindowPiece:
    """Traces of a model, and the directions that the windows in them are projected on."""

    model: str
    items: tuple[Item, ...]
    extractor: PluginSpec
    window: tuple[int, int]
    layers: tuple[int, ...]
    directions: tuple[tuple[Tensor, Tensor], ...]
    which: dict[str, int]
    batch_tokens: int

    def __len__(self) -> int:
        return len(self.items)


def window_pieces(
    model: str,
    fitter: VectorFitter,
    statistics: ActivationStatistics,
    items: Sequence[Item],
    draws: Draws,
    extractor: PluginSpec,
    batch_tokens: int,
) -> list[WindowPiece]:
    """The windows of items and, for each fold of `draws`, the directions that the others give; none without folds."""
    folds = left_out(fitter, statistics)
    if folds is None:
        return []
    return [
        WindowPiece(
            model=model,
            items=tuple(items[begin : begin + reading.TRACES]),
            extractor=extractor,
            window=draws.window,
            layers=statistics.windows[draws.window].layers,
            directions=tuple(folds),
            which={item.trace.id: draws.of[item.trace.id].fold for item in items[begin : begin + reading.TRACES]},
            batch_tokens=batch_tokens,
        )
        for begin in range(0, len(items), reading.TRACES)
    ]


def project(models: Models, piece: WindowPiece) -> list[Projections]:
    """How far each window lies along the direction of the other folds, from their windows' mean."""
    found = project_windows(
        models[piece.model],
        piece.items,
        registry.build("extractors", piece.extractor),
        piece.window,
        [direction for direction, _ in piece.directions],
        piece.which,
        piece.layers,
        batch_tokens=piece.batch_tokens,
        on_batch=lambda done, total: models.progress(len(piece) * done // total),
    )
    away = {trace: values - piece.directions[piece.which[trace]][1].numpy() for trace, values in found.items()}
    return [
        (piece.model, trace, [[None if np.isnan(v) else float(v) for v in row] for row in values])
        for trace, values in away.items()
    ]


def facts_of(
    fitter: VectorFitter,
    vector: SteeringVector,
    statistics: ActivationStatistics,
    nulls: Mapping[str, Sequence[SteeringVector]],
    items: Iterable[Item],
    along: Iterable[Projections],
    intervals: Intervals,
    seed: int,
) -> list[Row]:
    """A row a block of what is said of a vector.

    Args:
        nulls: what `shuffled` gives.
        along: what `project` gives of the items; AUROC is left out where it is empty.
    """
    halves = reliability(split_half_cosines(fitter, statistics, seed=seed))
    scores = {trace: np.array(values, np.float64) for _, trace, values in along if values}
    hits = {item.trace.id: np.array([s.label == vector.info.label for s in item.spans], bool) for item in items}
    hits = _by_pair({trace: hits[trace] for trace in scores})
    scores = _by_pair(scores)
    return [
        {
            "label": vector.info.label,
            "layer": layer,
            **_spread("reliability", halves[:, index]),
            "top_share": top_share(vector.direction(layer)),
            **{
                column: value
                for kind, drawn_vectors in nulls.items()
                for column, value in _spread(
                    f"cos_{kind}",
                    np.array([cosine(vector.direction(layer), v.direction(layer)) for v in drawn_vectors]),
                ).items()
            },
            **_spread("length_within", np.array([_length(v, vector, layer) for v in nulls.get(WITHIN, ())])),
            **_told({t: v[:, index] for t, v in scores.items()}, hits, intervals, seed),
        }
        for index, layer in enumerate(vector.layers)
    ]


def _by_pair(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Trace → values [S, ...], the two sides of a pair as one trace."""
    found: dict[str, list[np.ndarray]] = {}
    for trace, own in values.items():
        found.setdefault(pair_of(trace), []).append(own)
    return {pair: np.concatenate(sides) for pair, sides in found.items()}


def _told(along: Mapping[str, np.ndarray], hits: Mapping[str, np.ndarray], intervals: Intervals, seed: int) -> Row:
    """How well the projection tells the label's windows from others, on traces that it is not fitted to."""
    kept, found = {trace: ~np.isnan(values) for trace, values in along.items()}, Row()
    scores = {trace: along[trace][own] for trace, own in kept.items() if own.any()}
    for column, centred in (("auroc", False), ("auroc_in_trace", True)):
        estimate = auroc(
            [values - values.mean() if centred else values for values in scores.values()],
            [hits[trace][kept[trace]] for trace in scores],
            confidence=intervals.confidence,
            resamples=intervals.resamples,
            seed=seed,
        )
        found |= {column: estimate.mean, f"{column}_low": estimate.low, f"{column}_high": estimate.high}
    windows = sum(map(len, scores.values()))
    return {**found, "n_windows": windows, "n_traces": estimate.n} if scores else {}


def _length(one: SteeringVector, other: SteeringVector, layer: int) -> float:
    """Length of a direction as a share of another's."""
    return float(one.direction(layer).norm() / other.direction(layer).norm())


def _spread(name: str, values: np.ndarray) -> Row:
    """Median, least and most of values; empty where there are none."""
    if not len(values):
        return {}
    return {name: float(np.median(values)), f"{name}_least": float(values.min()), f"{name}_most": float(values.max())}


def shuffled(fitter: VectorFitter, statistics: ActivationStatistics) -> dict[str, list[SteeringVector]]:
    """Kind of shuffling → the vectors of its draws."""
    names = statistics.drawn.names if statistics.drawn else ()
    return {
        kind: [fit_drawn(fitter, statistics, name) for name in names if kind_of(name)[0] == kind]
        for kind in (WITHIN, OVER)
    }


def alike(vectors: Vectors, nulls: Mapping[str, Mapping[str, Sequence[SteeringVector]]]) -> list[Row]:
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
