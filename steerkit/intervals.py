"""Confidence intervals by bootstrap over prompts, or over traces."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval. `n` values went in; sd is theirs (n − 1), NaN for fewer than two."""

    mean: float
    sd: float
    low: float
    high: float
    n: int


def mean_interval(values: np.ndarray, *, confidence: float, resamples: int, seed: int) -> Estimate:
    """Mean of one value a prompt, with a BCa bootstrap interval; NaN values are left out.

    Constant data has no spread to resample: its interval is the value itself. Where BCa is undefined (its
    jackknife has no spread) the percentile interval stands in.
    """
    from scipy.stats import DegenerateDataWarning, bootstrap

    values = values[~np.isnan(values)]
    n = len(values)
    if n == 0:
        return Estimate(float("nan"), float("nan"), float("nan"), float("nan"), 0)
    mean = float(values.mean())
    if n == 1:
        return Estimate(mean, float("nan"), float("nan"), float("nan"), 1)
    sd = float(values.std(ddof=1))
    if np.ptp(values) == 0:
        return Estimate(mean, sd, mean, mean, n)
    for method in ("BCa", "percentile"):
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", DegenerateDataWarning)
            result = bootstrap(
                (values,), np.mean, n_resamples=resamples, confidence_level=confidence, method=method,
                rng=np.random.default_rng(seed), vectorized=True,
            )  # fmt: skip
        low, high = (float(x) for x in result.confidence_interval)
        if np.isfinite(low) and np.isfinite(high):
            break
    return Estimate(mean, sd, low, high, n)


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
