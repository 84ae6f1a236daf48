"""Confidence intervals of contrasts over prompts and random draws. See docs/statistics.md."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from steerkit.errors import SteerkitError
from steerkit.stats.intervals import Estimate, Moments, mean_interval, moments, pivot_interval


def contrast_interval(
    groups: Sequence[tuple[float, np.ndarray]],
    *,
    confidence: float,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> Estimate:
    """Sum of coefficient × mean over groups of conditions, with an interval for new prompts and new draws.

    A group is one fixed condition, or random draws of a control that are each run on every prompt: `[(1, true),
    (-1, draws)]` is how far a condition is above the mean of all draws that there could be. Prompts and draws are
    crossed random factors (Searle, Casella and McCulloch 1992, Variance Components, chapter 4): the variance is that of
    the prompts' contrasts and that of the draws' means, less their interaction, which is in both, and not below either.
    The pivot is that of `mean_interval`, with the prompts' skewness and the fewest degrees of freedom of all. Without
    draws, or where all have the same mean, it is `mean_interval` of the prompts' contrasts.

    Args:
        groups: coefficients with [n, K] values, all in the metric's unit and on the same n prompts. K is 1 for a fixed
            condition; draws of different groups are independent. Prompts with a NaN in any group are left out.
        bounds: what the true contrast can't lie beyond; the interval ends there.

    Returns:
        mean: the contrast. sd: of the prompts' own contrasts. n: prompts that went in; those of `groups` less these
        were left out. apart: prompts whose contrast is not the commonest one; where all agree, draws (of the group with
        the fewest). The interval is NaN for fewer than two prompts, and the value itself for constant data.

    Raises:
        SteerkitError: no groups, values that are not [n, K] with K ≥ 1, or groups of different prompts.
    """
    values = _checked(groups)
    kept = ~np.any([np.isnan(own).any(axis=1) for own in values], axis=0)
    parts = [coefficient * own[kept] for (coefficient, _), own in zip(groups, values, strict=True)]
    prompts = np.asarray(sum(part.mean(axis=1) for part in parts))
    n = len(prompts)
    drawn = [part for part in parts if n > 1 and np.ptp(part.mean(axis=0)) > 0]
    if not drawn:
        return mean_interval(prompts, confidence=confidence, bounds=bounds)
    of, df = _moments(prompts, drawn), min(n, *(part.shape[1] for part in drawn)) - 1
    low, high, p = pivot_interval(of, df, confidence=confidence, bounds=bounds)
    apart = _apart(prompts) or min(_apart(part.mean(axis=0)) for part in drawn)
    return Estimate(float(of[0][0]), float(prompts.std(ddof=1)), low, high, n, apart, p)


def _moments(prompts: np.ndarray, drawn: Sequence[np.ndarray]) -> Moments:
    """Of [n] contrasts and groups of [n, K] draws times their coefficients."""
    mean, error, skew = moments(prompts[None])
    errors = np.array([error[0], *(moments(part.mean(axis=0)[None])[1][0] for part in drawn)])
    twice = np.array([_interaction(part) for part in drawn])
    unit = errors.max()  # squares of very small values would be 0
    squares = (errors / unit) ** 2
    square = max(squares.sum() - ((twice / unit) ** 2).sum(), squares.max())
    # Few draws tell little of their own skewness: with it, intervals are wider and hold hardly more often.
    return mean, np.array([unit * square**0.5]), skew * (squares[0] / square) ** 1.5


def _interaction(part: np.ndarray) -> float:
    """Standard error of a group's mean from what is left of [n, K] values without their rows' and columns' means."""
    rest = part - part.mean(axis=1, keepdims=True) - part.mean(axis=0) + part.mean()
    own, draws = part.shape
    return float(np.hypot.reduce(rest, axis=None)) / float(np.sqrt((own - 1) * (draws - 1) * own * draws))


def _apart(values: np.ndarray) -> int:
    return len(values) - int(np.unique(values, return_counts=True)[1].max())


def _checked(groups: Sequence[tuple[float, np.ndarray]]) -> list[np.ndarray]:
    """[n, K] values of each group."""
    values = [np.asarray(own, dtype=np.float64) for _, own in groups]
    shapes = ", ".join(str(list(own.shape)) for own in values)
    if not values:
        raise SteerkitError("a contrast takes one group of values or more")
    if any(own.ndim != 2 or not own.shape[1] for own in values):
        raise SteerkitError(
            f"values of a group are [prompts, draws], [prompts, 1] for a fixed condition; here: {shapes}"
        )
    if len({len(own) for own in values}) > 1:
        raise SteerkitError(f"groups of a contrast are values of the same prompts; here: {shapes}")
    return values
