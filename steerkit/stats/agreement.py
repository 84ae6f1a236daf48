"""How far judges agree on the same units: precision, recall and F1, Cohen's kappa, Krippendorff's alpha.

Every figure is a function of label counts that sum over traces, so that the bootstrap over traces is a product of
matrices. L labels, C clusters (traces), J judges, U units.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import NamedTuple

import numpy as np

from steerkit.errors import SteerkitError
from steerkit.stats.intervals import cluster_intervals

Labels = Sequence[str | None]
"""A judge's label of each unit; None where it has none."""

OTHER = "other"  # the label of what fits none of a judge's labels: counted as the rest


class Figure(NamedTuple):
    """A value with its interval; NaN where it is not defined (a precision without any hit, one cluster alone)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class LabelAgreement:
    """How a judge's use of one label fits the reference's.

    Attributes:
        n_reference: units that the reference labels so; `n_judge` the judge, `n_both` both of them.
    """

    label: str
    precision: Figure
    recall: Figure
    f1: Figure
    n_reference: int
    n_judge: int
    n_both: int


@dataclass(frozen=True)
class PairAgreement:
    """Two judges on the units that both of them labelled.

    Attributes:
        table: [L][L] units by the reference's label (rows) and the judge's (columns).
        kappa: Cohen's, all labels; `agreement` is the share of units with the same label.
        missing: units that one of the two has no label for; left out.
    """

    reference: str
    judge: str
    labels: tuple[str, ...]
    table: tuple[tuple[int, ...], ...]
    kappa: Figure
    agreement: Figure
    by_label: tuple[LabelAgreement, ...]
    n_units: int
    n_clusters: int
    missing: int


@dataclass(frozen=True)
class Agreement:
    """All pairs of judges, and all of them together.

    Attributes:
        alpha: Krippendorff's (nominal), over units that two judges or more labelled.
    """

    judges: tuple[str, ...]
    labels: tuple[str, ...]
    pairs: tuple[PairAgreement, ...]
    alpha: Figure
    n_units: int
    n_clusters: int


def agreement(
    judged: Mapping[str, Labels],
    clusters: Sequence[str],
    *,
    labels: Sequence[str] | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Agreement:
    """Compare judges on the same units; the first one is the reference of its pairs.

    Args:
        judged: judge → its label of each unit, U each.
        clusters: trace (or prompt) of each unit; the bootstrap resamples these.
        labels: labels that count; any other one is taken for `other`. All that occur when left out.
        resamples: of the bootstrap (BCa, percentile where that is undefined).

    Raises:
        SteerkitError: fewer than two judges, lists of different lengths, or no units.
    """
    if len(judged) < 2:
        raise SteerkitError(f"agreement takes two judges or more, not {len(judged)} ({', '.join(judged)})")
    lengths = {name: len(each) for name, each in judged.items()} | {"clusters": len(clusters)}
    if len(set(lengths.values())) > 1 or not len(clusters):
        raise SteerkitError(f"judges must label the same units, at least one: {lengths}")
    names = _names(judged, labels)
    codes = np.array([_codes(each, names) for each in judged.values()])  # [J, U]
    _, cluster = np.unique(np.array(clusters), return_inverse=True)
    settle = partial(cluster_intervals, confidence=confidence, resamples=resamples, seed=seed)
    judges = tuple(judged)
    pairs = []
    for a, b in combinations(range(len(judges)), 2):
        both = (codes[a] >= 0) & (codes[b] >= 0)
        counts = _confusions(codes[a][both], codes[b][both], cluster[both], len(names))
        figures = [Figure(*map(float, f)) for f in zip(*settle(counts, pair_figures), strict=True)]
        pairs.append(_pair(judges[a], judges[b], names, counts, figures, int((~both).sum())))
    alpha = settle(coincidences(codes, cluster, len(names)), lambda sums: krippendorff_alpha(sums)[:, None])
    figure = Figure(*(float(bound[0]) for bound in alpha))
    return Agreement(judges, names, tuple(pairs), figure, len(clusters), int(cluster.max()) + 1)


def _names(judged: Mapping[str, Labels], labels: Sequence[str] | None) -> tuple[str, ...]:
    """The labels in use, the reference's most frequent one first, `other` last."""
    reference = Counter(next(iter(judged.values())))
    seen = {label for each in judged.values() for label in each if label is not None}
    wanted = dict.fromkeys(labels if labels is not None else sorted(seen, key=lambda n: (-reference[n], n)))
    rest = bool(seen - set(wanted)) or OTHER in wanted
    return (*(name for name in wanted if name != OTHER), *([OTHER] if rest else []))


def _codes(judged: Labels, names: Sequence[str]) -> list[int]:
    number = {name: index for index, name in enumerate(names)}
    return [-1 if label is None else number.get(label, number.get(OTHER, -1)) for label in judged]


def _confusions(a: np.ndarray, b: np.ndarray, cluster: np.ndarray, size: int) -> np.ndarray:
    """[C, L, L] units of each cluster by both labels; clusters without any unit are left out."""
    kept, cluster = np.unique(cluster, return_inverse=True)
    flat = np.bincount((cluster * size + a) * size + b, minlength=len(kept) * size * size)
    return flat.reshape(len(kept), size, size)


def pair_figures(tables: np.ndarray) -> np.ndarray:
    """[B, L, L] confusion tables → [B, 3 L + 2]: precision, recall, F1 of each label, Cohen's kappa, agreement."""
    rows, columns, hits = tables.sum(axis=2), tables.sum(axis=1), np.diagonal(tables, axis1=1, axis2=2)
    n = rows.sum(axis=1)
    observed, chance = hits.sum(axis=1) / n, (rows * columns).sum(axis=1) / n**2
    kappa = np.where(chance < 1, (observed - chance) / (1 - chance), np.nan)
    return np.concatenate(
        [hits / columns, hits / rows, 2 * hits / (rows + columns), kappa[:, None], observed[:, None]], axis=1
    )


def coincidences(codes: np.ndarray, cluster: np.ndarray, size: int) -> np.ndarray:
    """[C, L, L] coincidences of pairs of labels within units, each weighted by 1 / (its unit's labels − 1).

    Args:
        codes: [J, U] label numbers, -1 for none.
    """
    counts = np.stack([(codes == label).sum(axis=0) for label in range(size)], axis=1).astype(np.float64)  # [U, L]
    given = counts.sum(axis=1)
    several = given >= 2
    counts, given, cluster = counts[several], given[several], cluster[several]
    pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(size)
    kept, cluster = np.unique(cluster, return_inverse=True)
    found = np.zeros((len(kept), size, size))
    np.add.at(found, cluster, pairs / (given - 1)[:, None, None])
    return found


def krippendorff_alpha(tables: np.ndarray) -> np.ndarray:
    """[B, L, L] coincidences → [B] nominal alpha; NaN where all labels are one."""
    by_label = tables.sum(axis=2)
    n = by_label.sum(axis=1)
    same = np.trace(tables, axis1=1, axis2=2)
    alpha: np.ndarray = 1 - (n - 1) * (n - same) / (n**2 - (by_label**2).sum(axis=1))
    return alpha


def _pair(
    reference: str, judge: str, names: tuple[str, ...], counts: np.ndarray, figures: Sequence[Figure], missing: int
) -> PairAgreement:
    table, size = counts.sum(axis=0), len(names)
    by_label = tuple(
        LabelAgreement(
            name,
            figures[i],
            figures[size + i],
            figures[2 * size + i],
            int(table[i].sum()),
            int(table[:, i].sum()),
            int(table[i, i]),
        )
        for i, name in enumerate(names)
    )
    return PairAgreement(
        reference,
        judge,
        names,
        tuple(tuple(map(int, row)) for row in table),
        figures[-2],
        figures[-1],
        by_label,
        int(table.sum()),
        len(counts),
        missing,
    )
