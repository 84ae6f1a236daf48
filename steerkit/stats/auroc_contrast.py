"""Sums and differences of AUROCs on the same tokens, with an interval over traces: what is paired stays paired."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from steerkit.stats.intervals import Estimate


def auroc_contrast(
    terms: Sequence[tuple[float, Sequence[np.ndarray]]],
    hits: Sequence[np.ndarray],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Σ weight · AUROC, ties half, with a bootstrap over traces that draws the same ones for all terms.

    Args:
        terms: weight and [T] scores of each trace's tokens; ``[(1, a), (-1, b)]`` is the difference of a and b.
        hits: [T] bool of each trace's tokens.

    Returns:
        mean: NaN when there is no hit, or nothing else; sd: the resamples'; n: traces with a token.
    """
    kept = [number for number, own in enumerate(hits) if len(own)]
    nan, n = float("nan"), len(kept)
    own = [hits[number] for number in kept]
    pos, neg = np.array([[h.sum(), (~h).sum()] for h in own], dtype=np.float64).reshape(-1, 2).T
    if not pos.sum() or not neg.sum():
        return Estimate(nan, nan, nan, nan, n)
    wins = np.zeros((n, n))
    for weight, scores in terms:
        wins += weight * _wins([scores[number] for number in kept], own)
    value = float(wins.sum() / (pos.sum() * neg.sum()))
    if n == 1:
        return Estimate(value, nan, nan, nan, 1)
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)
    with np.errstate(invalid="ignore"):
        values = ((drawn @ wins) * drawn).sum(axis=1) / ((drawn @ pos) * (drawn @ neg))
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return Estimate(value, float(np.nanstd(values)), float(low), float(high), n)


def _wins(scores: Sequence[np.ndarray], hits: Sequence[np.ndarray]) -> np.ndarray:
    """[n, n] how often a hit of trace i is above another token of trace j, ties half."""
    n = len(scores)
    positive = [s[h] for s, h in zip(scores, hits, strict=True)]
    everything, owner = np.concatenate(positive), np.repeat(np.arange(n), [len(own) for own in positive])
    found = np.zeros((n, n))
    for j, (own, hit) in enumerate(zip(scores, hits, strict=True)):
        others = np.sort(own[~hit])
        below = np.searchsorted(others, everything, "left") + np.searchsorted(others, everything, "right")
        found[:, j] = np.bincount(owner, below / 2, n)
    return found
