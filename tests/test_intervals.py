"""Bootstrap intervals: degenerate data, NaN, and how often they cover the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from steerkit.intervals import mean_interval

OPTIONS = {"confidence": 0.95, "resamples": 500, "seed": 0}


def test_no_value_and_one_value() -> None:
    for values in ([], [math.nan, math.nan]):
        found = mean_interval(np.array(values, float), **OPTIONS)
        assert found.n == 0
        assert all(math.isnan(x) for x in (found.mean, found.sd, found.low, found.high))
    found = mean_interval(np.array([3.0, math.nan]), **OPTIONS)
    assert (found.mean, found.n) == (3.0, 1)
    assert all(math.isnan(x) for x in (found.sd, found.low, found.high))


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3])
def test_constant_values(value: float) -> None:
    found = mean_interval(np.full(20, value), **OPTIONS)
    assert (found.low, found.high, found.n) == (found.mean, found.mean, 20)
    assert found.mean == pytest.approx(value)
    assert found.sd == pytest.approx(0, abs=1e-12)


def test_nan_is_left_out() -> None:
    values = np.array([0.0, 1.0, 5.0, 2.0])
    with_nan = np.array([math.nan, 0.0, 1.0, math.nan, 5.0, 2.0])
    assert mean_interval(with_nan, **OPTIONS) == mean_interval(values, **OPTIONS)
    found = mean_interval(values, **OPTIONS)
    assert (found.mean, found.n) == (2.0, 4)
    assert found.sd == pytest.approx(np.std(values, ddof=1))


@pytest.mark.parametrize(
    "values",
    [[0, 1], [0] * 30 + [1], [1e-300, 0, 0], [0, 0, 0, 1e9], [-1] * 40 + [1], [1, 1 + 1e-15], [0] * 63 + [1e-3]],
)
def test_near_degenerate_values_give_a_finite_interval_around_the_mean(values: list[float]) -> None:
    """BCa is undefined for some of these; scipy warns, which is an error in this suite."""
    found = mean_interval(np.array(values, float), **OPTIONS)
    assert found.low <= found.mean <= found.high
    assert math.isfinite(found.low)
    assert math.isfinite(found.high)


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(0).normal(size=30)
    a, b = (mean_interval(values, confidence=0.9, resamples=500, seed=s) for s in (1, 2))
    assert a == mean_interval(values, confidence=0.9, resamples=500, seed=1)
    assert a != b
    assert mean_interval(values, confidence=0.5, resamples=500, seed=1).high < a.high


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    """80 % intervals of 40 skewed values, 150 times; a hundred resamples each."""
    draw = np.random.default_rng(0)
    covered = 0
    for number in range(150):
        found = mean_interval(draw.exponential(size=40), confidence=0.8, resamples=200, seed=number)
        covered += found.low <= 1.0 <= found.high
    assert 0.68 < covered / 150 < 0.9
