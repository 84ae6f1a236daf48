"""Confidence intervals: of means over prompts, and of pooled counts over traces. See docs/statistics.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

METHOD = "skew-corrected t interval (Hall 1992)"
"""What an interval of a mean is. tests/trials/coverage.py holds it against others."""

ENOUGH = 32
"""Prompts below which intervals hold less often than they say, on some populations of docs/statistics.md."""

ENOUGH_APART = 10
"""The same for prompts whose value is not the commonest one."""

ENOUGH_POOLED = 100
"""Traces below which bootstrap intervals of pooled figures (precision, kappa, AUROC) hold less often than they say."""


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval.

    Attributes:
        sd: of the values (n − 1); NaN for fewer than two.
        n: values that went in.
        apart: values that are not the commonest one; 0 for constant data.
        p: of the mean being 0, two-sided, by the same pivot as the interval; NaN where the data say nothing about it.
    """

    mean: float
    sd: float
    low: float
    high: float
    n: int
    apart: int = 0
    p: float = float("nan")

    @property
    def degenerate(self) -> bool:
        """Whether there is no spread that an interval could be made of: constant data."""
        return self.n > 1 and self.apart == 0


def mean_interval(
    values: np.ndarray, *, confidence: float, bounds: tuple[float, float] = (-np.inf, np.inf)
) -> Estimate:
    """Mean of one value a prompt with its skew-corrected t interval; NaN values are left out.

    Constant data has no spread to tell from: its interval is the value itself, and `apart` is 0.

    Args:
        bounds: what the true mean can't lie beyond; the interval ends there.
    """
    nan = float("nan")
    values = values[~np.isnan(values)]
    n = len(values)
    if n == 0:
        return Estimate(nan, nan, nan, nan, 0)
    mean = float(values.mean())
    if n == 1:
        return Estimate(mean, nan, nan, nan, 1)
    sd, apart = float(values.std(ddof=1)), n - int(np.unique(values, return_counts=True)[1].max())
    if np.ptp(values) == 0:
        return Estimate(mean, sd, mean, mean, n, apart, nan if mean else 1.0)
    low, high, p = pivot_interval(moments(values[None]), n - 1, confidence=confidence, bounds=bounds)
    return Estimate(mean, sd, low, high, n, apart, p)


def constant_interval(estimate: Estimate, *, confidence: float, bounds: tuple[float, float]) -> Estimate:
    """What constant data of a bounded metric says of others: all n prompts agree, so few of all can be elsewhere.

    A share q of prompts with other values is missed by n of n with probability (1 - q)ⁿ. With this probability at
    (1 - confidence) / 2, the mean lies no further from the value than q times the way to a bound (for n of n successes
    it is Clopper and Pearson's interval). Conservative, and unlike `mean_interval`'s not of zero width.

    Args:
        estimate: of constant data, n ≥ 1.
        bounds: of the metric, finite.
    """
    mean, n = estimate.mean, estimate.n
    q = 1 - ((1 - confidence) / 2) ** (1 / n)
    low, high = (mean + q * (end - mean) for end in bounds)
    far = bounds[0] if mean > 0 else bounds[1]
    p = min(1.0, 2 * (far / (far - mean)) ** n) if mean else 1.0  # the level at which the interval reaches 0
    return replace(estimate, low=low, high=high, p=p)


Moments = tuple[np.ndarray, np.ndarray, np.ndarray]
"""[S] means (or other estimates), their standard errors, and their skewness."""


def mean_bounds(values: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """[S, n] values → [S] lower and upper bounds of S means."""
    return pivot_bounds(moments(values), values.shape[1] - 1, confidence)


def pivot_interval(
    of: Moments, df: float, *, confidence: float, bounds: tuple[float, float]
) -> tuple[float, float, float]:
    """Lower and upper bound of one estimate, held within `bounds`, and p of 0."""
    low, high = (float(end[0]) for end in pivot_bounds(of, df, confidence))
    mean, error, skew = (float(found[0]) for found in of)
    low, high = max(low, min(bounds[0], mean)), min(high, max(bounds[1], mean))
    return low, high, _p_of_zero(mean, error, skew, df)


def pivot_bounds(of: Moments, df: float | np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """[S] lower and upper bounds of S estimates; degrees of freedom are one for all, or [S].

    The studentized mean of skewed data is skewed itself. Hall's cubic (1992, J. R. Stat. Soc. B 54:221) takes the
    skewness out, so that quantiles of Student's t fit; it is monotone, so that it can be turned back into bounds.
    """
    from scipy.special import stdtrit

    mean, error, skew = of
    quantile = stdtrit(df, (1 + confidence) / 2)

    def studentized(at: float | np.ndarray) -> np.ndarray:
        root: np.ndarray = np.cbrt(1 + skew * (at - skew / 6))
        found: np.ndarray = 3 * (at - skew / 6) / (root**2 + root + 1)
        return found

    return mean - studentized(quantile) * error, mean - studentized(-quantile) * error


def _p_of_zero(mean: float, error: float, skew: float, df: float) -> float:
    """Level at which the interval of `pivot_bounds` touches 0, from 1."""
    from scipy.special import stdtr

    t = mean / error
    corrected = t + skew * t**2 / 3 + skew**2 * t**3 / 27 + skew / 6
    return float(2 * stdtr(df, -abs(corrected)))


def moments(values: np.ndarray) -> Moments:
    """[S, n] values → [S] means, their standard errors, and skewness of the means; 0 for constant data."""
    n, mean = values.shape[1], values.mean(axis=1)
    away = values - mean[:, None]
    scale = np.abs(away).max(axis=1)  # powers of very small values would be 0
    safe = np.where(scale > 0, scale, 1.0)
    away /= safe[:, None]
    squares = (away**2).sum(axis=1)
    cubes = np.divide((away**3).sum(axis=1), squares**1.5, out=np.zeros(len(values)), where=squares > 0)
    return mean, safe * np.sqrt(squares / (n - 1) / n), cubes


def pairing_gain(a: np.ndarray, b: np.ndarray) -> float:
    """How much smaller the standard error of a difference is for pairs than for two independent samples: 0.2 for 20 %.

    Pairs with a NaN are left out; NaN where neither side has any spread.
    """
    kept = ~np.isnan(a - b)
    if kept.sum() < 2:
        return float("nan")
    apart = a[kept].var(ddof=1) + b[kept].var(ddof=1)
    return float(1 - np.sqrt((a - b)[kept].var(ddof=1) / apart)) if apart > 0 else float("nan")


def holm(p: Sequence[float]) -> list[float]:
    """p-values such that rejecting those below a level keeps the chance of any false rejection below it (Holm 1979).

    NaN is no test: it stays NaN and counts for nothing.
    """
    values = np.array(p, dtype=np.float64)
    tested = np.flatnonzero(~np.isnan(values))
    order = tested[np.argsort(values[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted = np.full(len(values), np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * factors), 1.0)
    return [float(value) for value in adjusted]


def cluster_intervals(
    counts: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    confidence: float,
    resamples: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Statistics of summed counts, with BCa bootstrap intervals over whole clusters (traces, prompts).

    Args:
        counts: [C, ...] what each cluster adds.
        statistic: [B, ...] sums → [B, M]; NaN where it is not defined.

    Returns:
        [M] values, lower and upper bounds. A resample in which a statistic is not defined is left out of its interval;
        of fewer than two clusters there is none (NaN). Where BCa is undefined the percentile interval stands in.
    """
    flat = counts.reshape(len(counts), int(np.prod(counts.shape[1:]))).astype(np.float64)
    total = flat.sum(axis=0)

    def of(sums: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return statistic(sums.reshape(len(sums), *counts.shape[1:]))

    value = of(total[None])[0]
    nan = np.full(len(value), np.nan)
    if len(flat) < 2:
        return value, nan, nan.copy()
    rng, shares = np.random.default_rng(seed), np.full(len(flat), 1 / len(flat))
    step = max(1, 4_000_000 // len(flat))
    drawn = [
        of(rng.multinomial(len(flat), shares, size=min(step, resamples - begin)) @ flat)
        for begin in range(0, resamples, step)
    ]
    resampled, jackknife = np.concatenate(drawn), of(total - flat)
    bounds = [
        _bca(value[m], resampled[:, m], jackknife[:, m], confidence) if np.isfinite(value[m]) else (np.nan, np.nan)
        for m in range(len(value))
    ]
    low, high = np.array(bounds).reshape(-1, 2).T
    return value, low, high


def _bca(value: float, resampled: np.ndarray, jackknife: np.ndarray, confidence: float) -> tuple[float, float]:
    """Bias-corrected and accelerated bounds (Efron 1987)."""
    from scipy.special import ndtr, ndtri

    resampled, jackknife = resampled[np.isfinite(resampled)], jackknife[np.isfinite(jackknife)]
    if not len(resampled):
        return float("nan"), float("nan")
    tails = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    close = np.isclose(resampled, value, rtol=1e-12, atol=1e-12)
    below = ((resampled < value) & ~close).mean() + close.mean() / 2
    away = jackknife.mean() - jackknife if len(jackknife) else np.zeros(1)
    spread = float((away**2).sum())
    if 0 < below < 1 and spread > 1e-30:
        bias, acceleration = ndtri(below), float((away**3).sum()) / (6 * spread**1.5)
        shifted = bias + ndtri(tails)
        tails = ndtr(bias + shifted / (1 - acceleration * shifted))
    low, high = np.quantile(resampled, tails)
    return float(low), float(high)
