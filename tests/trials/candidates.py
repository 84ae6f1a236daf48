"""Interval methods for a mean, each over many simulated runs at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit

from steerkit.stats.intervals import mean_bounds

Bounds = tuple[np.ndarray, np.ndarray]
TAIL = 0.025
USED = "skew-corrected t"
"""What steerkit uses, by its own code."""


class Resampled:
    """S runs of n values, and what a bootstrap over them needs.

    Attributes:
        away: [S, B] resampled mean minus mean.
        variance: [S, B] resampled sample variance, at least a twentieth of the sample's own, so that a resample of
            equal values has a studentized mean.
    """

    def __init__(self, values: np.ndarray, rng: np.random.Generator, resamples: int) -> None:
        n = values.shape[1]
        self.values, self.n, self.mean = values, n, values.mean(axis=1)
        self.centred = values - self.mean[:, None]
        self.squares = (self.centred**2).sum(axis=1)
        self.error = np.sqrt(self.squares / (n - 1) / n)
        weights = rng.multinomial(n, np.full(n, 1 / n), size=resamples).T.astype(np.float64)
        self.away = self.centred @ weights / n
        variance = (self.centred**2 @ weights / n - self.away**2) * n / (n - 1)
        self.variance = np.maximum(variance, 0.05 * (self.squares / (n - 1))[:, None])


def student(r: Resampled) -> Bounds:
    half = stdtrit(r.n - 1, 1 - TAIL) * r.error
    return r.mean - half, r.mean + half


def percentile(r: Resampled) -> Bounds:
    low, high = np.quantile(r.away, [TAIL, 1 - TAIL], axis=1)
    return r.mean + low, r.mean + high


def bca(r: Resampled) -> Bounds:
    """Bias-corrected and accelerated (Efron 1987)."""
    ties = np.abs(r.away) <= 1e-12
    below = ((r.away < 0) & ~ties).mean(axis=1) + ties.mean(axis=1) / 2
    bias = ndtri(np.clip(below, 1e-9, 1 - 1e-9))
    acceleration = _ratio((r.centred**3).sum(axis=1), 6 * r.squares**1.5)
    ordered, last = np.sort(r.away, axis=1), r.away.shape[1] - 1

    def at(tail: float) -> np.ndarray:
        shifted = bias + ndtri(tail)
        place = ndtr(bias + shifted / (1 - acceleration * shifted)) * last
        below, part = np.floor(place).astype(int), place % 1
        rows = np.arange(len(ordered))
        return r.mean + ordered[rows, below] * (1 - part) + ordered[rows, np.minimum(below + 1, last)] * part

    return at(TAIL), at(1 - TAIL)


def studentized(r: Resampled) -> Bounds:
    """Bootstrap-t."""
    t = _ratio(r.away, np.sqrt(r.variance / r.n))
    low, high = np.quantile(t, [TAIL, 1 - TAIL], axis=1)
    return r.mean - high * r.error, r.mean - low * r.error


def wilson(r: Resampled) -> Bounds:
    """Wilson's interval with the number of independent draws that would have this standard error; for shares."""
    inside = r.mean * (1 - r.mean)
    draws = np.where(r.error > 0, _ratio(inside, r.error**2), r.n)
    z2 = stdtrit(r.n - 1, 1 - TAIL) ** 2
    centre = (r.mean + z2 / (2 * draws)) / (1 + z2 / draws)
    half = np.sqrt(z2 * (inside / draws + z2 / (4 * draws**2))) / (1 + z2 / draws)
    return centre - half, centre + half


def used(r: Resampled) -> Bounds:
    return mean_bounds(r.values, 1 - 2 * TAIL)


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.zeros(np.broadcast(top, bottom).shape), where=bottom > 0)


CANDIDATES: dict[str, Callable[[Resampled], Bounds]] = {
    "percentile": percentile,
    "BCa": bca,
    "t": student,
    "bootstrap-t": studentized,
    USED: used,
    "Wilson": wilson,
}
