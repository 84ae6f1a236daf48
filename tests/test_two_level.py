"""Intervals over prompts and draws: against the one-level interval and sums of squares, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from steerkit.errors import SteerkitError
from steerkit.stats.intervals import mean_interval
from steerkit.stats.two_level import contrast_interval

NOWHERE = (-math.inf, math.inf)


def crossed(seed: int, n: int, draws: int, spread: float = 1.0) -> np.ndarray:
    """[n, draws] skewed values with a part of the prompt's, one of the draw's and one of both."""
    rng = np.random.default_rng(seed)
    return rng.exponential(size=(n, 1)) + spread * rng.exponential(size=(1, draws)) + rng.normal(size=(n, draws))


@pytest.mark.parametrize("bounds", [NOWHERE, (-1.0, 1.0)])
@pytest.mark.parametrize("seed", range(5))
def test_without_draws_it_is_the_interval_of_the_prompts(seed: int, bounds: tuple[float, float]) -> None:
    a, b = crossed(seed, 25, 1), crossed(seed + 100, 25, 1)
    for groups, values in (([(1, a), (-1, b)], a - b), ([(0.5, a)], 0.5 * a)):
        found = contrast_interval(groups, confidence=0.9, bounds=bounds)
        assert found == mean_interval(values[:, 0], confidence=0.9, bounds=bounds)


def test_draws_that_are_all_the_same_are_one_condition() -> None:
    a, b = crossed(0, 25, 1), crossed(1, 25, 1)
    found = contrast_interval([(1, a), (-1, np.tile(b, (1, 4)))], confidence=0.95)
    assert found == mean_interval((a - b)[:, 0], confidence=0.95)


def oracle(groups: list[tuple[float, np.ndarray]]) -> tuple[float, float, int]:
    """Standard error, skewness and degrees of freedom from sums of squares, cell by cell."""
    n = len(groups[0][1])
    own = [sum(a * np.mean(x[p]) for a, x in groups) for p in range(n)]
    parts, less, df = [np.var(own, ddof=1) / n], 0.0, n - 1
    for a, x in groups:
        if (k := x.shape[1]) > 1:
            cells = [(p, i) for p in range(n) for i in range(k)]
            rest = sum((x[p, i] - np.mean(x[p]) - np.mean(x[:, i]) + np.mean(x)) ** 2 for p, i in cells)
            parts.append(a**2 * np.var([np.mean(x[:, i]) for i in range(k)], ddof=1) / k)
            less, df = less + a**2 * rest / ((n - 1) * (k - 1)) / (n * k), min(df, k - 1)
    total = max(sum(parts) - less, *parts)
    return total**0.5, stats.skew(own) / n**0.5 * (parts[0] / total) ** 1.5, df


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("k", "others"), [(5, 1), (1, 7), (4, 6), (2, 20)])
def test_halls_cubic_of_the_oracles_moments_is_the_quantile(k: int, others: int, seed: int) -> None:
    groups = [(1.0, crossed(seed, 12, k) + 0.3), (-0.5, crossed(seed + 100, 12, others))]
    found, (error, skew, df) = contrast_interval(groups, confidence=0.9), oracle(groups)
    assert found.mean == pytest.approx(groups[0][1].mean() - 0.5 * groups[1][1].mean())

    def cubic(t: float) -> float:
        return t + skew * t**2 / 3 + skew**2 * t**3 / 27 + skew / 6

    for bound, tail in ((found.low, 0.95), (found.high, 0.05)):
        assert cubic((found.mean - bound) / error) == pytest.approx(stats.t.ppf(tail, df))
    assert found.p == pytest.approx(2 * stats.t.sf(abs(cubic(found.mean / error)), df))


def test_new_draws_widen_it() -> None:
    a, b = crossed(0, 60, 1), crossed(1, 60, 10, spread=3.0)
    both, alone = (
        contrast_interval([(1, a), (-1, b)], confidence=0.95),
        mean_interval(a[:, 0] - b.mean(1), confidence=0.95),
    )
    assert both.high - both.low > 2 * (alone.high - alone.low) and both.p > alone.p
    assert (both.mean, both.sd, both.n, both.apart) == (alone.mean, alone.sd, alone.n, alone.apart)


def test_it_is_never_narrower_than_one_level_alone() -> None:
    """Draws of the same mean but for rounding: what is left of them would lower the variance."""
    values = np.random.default_rng(0).normal(size=(30, 8))
    values += 1e-9 * np.arange(8) - values.mean(axis=0)
    found, alone = contrast_interval([(1, values)], confidence=0.95), mean_interval(values.mean(1), confidence=0.95)
    assert found.high - found.low > 0.999 * (alone.high - alone.low)


def test_order_does_not_matter() -> None:
    a, b, rng = crossed(0, 20, 3), crossed(1, 20, 9), np.random.default_rng(2)
    rows = rng.permutation(20)
    found = contrast_interval([(1, a), (-1, b)], confidence=0.95)
    other = contrast_interval([(-1, b[rows][:, rng.permutation(9)]), (1, a[rows])], confidence=0.95)
    for name in ("mean", "sd", "low", "high", "n", "apart", "p"):
        assert getattr(other, name) == pytest.approx(getattr(found, name), rel=1e-9)
    mirrored = contrast_interval([(-1, a), (1, b)], confidence=0.95)
    assert (-mirrored.high, -mirrored.low, mirrored.p) == pytest.approx((found.low, found.high, found.p))


def test_prompts_without_a_value_are_left_out() -> None:
    a, b = crossed(0, 20, 1), crossed(1, 20, 4)
    holes = b.copy()
    holes[3, 1], holes[5, :] = math.nan, math.nan
    kept = [p for p in range(20) if p not in (3, 5)]
    found = contrast_interval([(1, a), (-1, holes)], confidence=0.95)
    assert found == contrast_interval([(1, a[kept]), (-1, b[kept])], confidence=0.95) and found.n == 18
    for left in (0, 1):
        gone = np.where(np.arange(20)[:, None] < left, b, math.nan)
        found = contrast_interval([(1, a), (-1, gone)], confidence=0.95)
        assert found.n == left and math.isnan(found.low) and math.isnan(found.high) and math.isnan(found.p)
        assert (
            found.mean == pytest.approx(float((a - b.mean(axis=1, keepdims=True))[0, 0]))
            if left
            else math.isnan(found.mean)
        )


def test_constant_data_are_degenerate_only_at_both_levels() -> None:
    flat, draws = np.ones((10, 1)), np.tile(np.arange(4.0), (10, 1))
    found = contrast_interval([(1, flat), (-1, np.full((10, 4), 0.5))], confidence=0.95)
    assert (found.low, found.mean, found.high) == (0.5, 0.5, 0.5) and found.degenerate and math.isnan(found.p)
    assert contrast_interval([(1, flat), (-1, np.ones((10, 4)))], confidence=0.95).p == 1.0
    found = contrast_interval([(1, flat), (-1, draws)], confidence=0.95)
    assert not found.degenerate and found.apart == 3
    expected = stats.ttest_1samp(1 - np.arange(4.0), 0.0)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert found.p == pytest.approx(expected.pvalue)


def test_very_small_values_have_an_interval() -> None:
    a, b = crossed(0, 20, 1), crossed(1, 20, 4)
    found, small = (contrast_interval([(s, a), (-s, b)], confidence=0.95) for s in (1.0, 2.0**-700))
    assert (small.low * 2.0**700, small.high * 2.0**700) == pytest.approx((found.low, found.high))
    assert small.p == pytest.approx(found.p)


def test_it_ends_at_what_is_possible() -> None:
    groups = [
        (1, np.array([[0.0], [0.0], [0.0], [1.0]])),
        (-1, np.array([[0.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]])),
    ]
    free, held = (contrast_interval(groups, confidence=0.95, bounds=b) for b in (NOWHERE, (-0.5, 0.5)))
    assert free.low < -0.5 and free.high > 0.5
    assert (held.low, held.high, held.p) == (-0.5, 0.5, free.p)


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ([], "a contrast takes one group of values or more"),
        (
            [(1, np.zeros(5))],
            r"values of a group are \[prompts, draws\], \[prompts, 1\] for a fixed condition; here: \[5\]",
        ),
        ([(1, np.zeros((5, 1))), (-1, np.zeros((5, 0)))], r"here: \[5, 1\], \[5, 0\]"),
        ([(1, np.zeros((5, 1))), (-1, np.zeros((4, 3)))], r"values of the same prompts; here: \[5, 1\], \[4, 3\]"),
    ],
)
def test_what_is_no_contrast_is_refused_in_words(groups: list[tuple[float, np.ndarray]], words: str) -> None:
    with pytest.raises(SteerkitError, match=words):
        contrast_interval(groups, confidence=0.95)
