"""How many features are in each class, and whether two kinds of features differ in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from steerkit.stats.intervals import cluster_intervals

SEED = 42
"""Of the resamples, as in the paper's code."""


@dataclass(frozen=True)
class ClassShares:
    """Of one kind of features.

    Attributes:
        counts: [3] features in each class: monosemantic, broad, polysemantic.
        shares, low, high: [3] with intervals.
        mean: of the classes' numbers 0, 1, 2; with its interval.
    """

    counts: np.ndarray
    shares: np.ndarray
    low: np.ndarray
    high: np.ndarray
    mean: tuple[float, float, float]


@dataclass(frozen=True)
class ClassDifference:
    """Of two kinds.

    Attributes:
        difference: of the mean classes, the first kind's less the other's, and the interval's ends; below 0 where the
            first is in better classes.
        chi2, p: Pearson's test of the two kinds having the same shares; NaN where only one class is there.
    """

    difference: tuple[float, float, float]
    chi2: float
    p: float


def clusters(features: Iterable[tuple[object, int]]) -> np.ndarray:
    """[C, 3] counts by class of what belongs together: (what it belongs to, number of its class) a feature.

    Both signs of a unit are no two independent features: intervals resample units.
    """
    found: dict[object, np.ndarray] = {}
    for name, number in features:
        found.setdefault(name, np.zeros(3))[number] += 1
    return np.stack(list(found.values())) if found else np.zeros((0, 3))


def class_shares(counts: np.ndarray, *, confidence: float, resamples: int) -> ClassShares:
    """Shares of [C, 3] counts with BCa bootstrap intervals over the C."""
    values, low, high = cluster_intervals(
        counts,
        lambda sums: np.column_stack([sums / sums.sum(1, keepdims=True), _mean(sums)]),
        confidence=confidence,
        resamples=resamples,
        seed=SEED,
    )
    mean = float(values[3]), float(low[3]), float(high[3])
    return ClassShares(counts.sum(0).astype(int), values[:3], low[:3], high[:3], mean)


def class_difference(one: np.ndarray, other: np.ndarray, *, confidence: float, resamples: int) -> ClassDifference:
    """Two kinds compared, [C, 3] counts each; resampled together."""
    both = np.zeros((len(one) + len(other), 2, 3))
    both[: len(one), 0], both[len(one) :, 1] = one, other
    value, low, high = cluster_intervals(
        both,
        lambda sums: (_mean(sums[:, 0]) - _mean(sums[:, 1]))[:, None],
        confidence=confidence,
        resamples=resamples,
        seed=SEED,
    )
    chi2, p = same_shares(one.sum(0), other.sum(0))
    return ClassDifference((float(value[0]), float(low[0]), float(high[0])), chi2, p)


def same_shares(one: Sequence[float] | np.ndarray, other: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Pearson's chi-square of two rows of counts, and its p."""
    from scipy.stats import chi2_contingency

    table = np.array([one, other], float)
    table = table[:, table.sum(0) > 0]
    if table.shape[1] < 2 or not table.sum(1).all():
        return float("nan"), float("nan")
    found = chi2_contingency(table, correction=False)
    return float(found.statistic), float(found.pvalue)


def _mean(sums: np.ndarray) -> np.ndarray:
    """[B, 3] counts → [B] mean of the classes' numbers."""
    return np.asarray(sums @ np.arange(3.0) / sums.sum(1))
