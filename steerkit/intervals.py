"""Confidence intervals by bootstrap over prompts."""

from __future__ import annotations

import warnings
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
