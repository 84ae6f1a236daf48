"""How well a number at each token tells what begins soon: AUROC with an interval over traces."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from steerkit.stats.intervals import Estimate


def begins_within(length: int, begins: Sequence[int], within: int) -> np.ndarray:
    """[length] bool: whether one of the places `begins` is 1 to `within` tokens after a token."""
    found = np.zeros(length, dtype=bool)
    for begin in begins:
        found[max(0, begin - within) : max(0, begin)] = True
    return found


def auroc(
    scores: Sequence[np.ndarray],
    hits: Sequence[np.ndarray],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Probability that a hit's score is above another token's (ties half), over all tokens of all traces.

    The interval is a bootstrap over traces: tokens of one trace are not independent.

    Args:
        scores: [T] scores of each trace's tokens.
        hits: [T] bool of each trace's tokens.

    Returns:
        mean: the AUROC, NaN when there is no hit, or nothing else; sd: the resamples'; n: traces with a token.
    """
    pairs = [(s, h) for s, h in zip(scores, hits, strict=True) if len(s)]
    n = len(pairs)
    nan = float("nan")
    if not n:
        return Estimate(nan, nan, nan, nan, 0)
    positive = [s[h] for s, h in pairs]
    negative = [np.sort(s[~h]) for s, h in pairs]
    pos, neg = (np.array([len(part) for part in side], dtype=np.float64) for side in (positive, negative))
    # wins[i, j]: how often a hit of trace i is above a non-hit of trace j, ties half.
    everything, owner = np.concatenate(positive), np.repeat(np.arange(n), pos.astype(int))
    wins = np.zeros((n, n))
    for j, others in enumerate(negative):
        below = np.searchsorted(others, everything, "left") + np.searchsorted(others, everything, "right")
        wins[:, j] = np.bincount(owner, below / 2, n)
    if not pos.sum() or not neg.sum():
        return Estimate(nan, nan, nan, nan, n)
    value = wins.sum() / (pos.sum() * neg.sum())
    if n == 1:
        return Estimate(float(value), nan, nan, nan, 1)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)
    with np.errstate(invalid="ignore"):
        drawn = np.einsum("ri,ij,rj->r", weights, wins, weights, optimize=True) / ((weights @ pos) * (weights @ neg))
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(drawn, [tail, 1 - tail])
    return Estimate(float(value), float(np.nanstd(drawn)), float(low), float(high), n)
