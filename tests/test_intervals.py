"""Intervals of means: degenerate data, NaN, bounds, how often they hold the truth, and Holm's adjustment."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from steerkit.stats.intervals import holm, mean_bounds, mean_interval, pairing_gain

TRIALS = Path(__file__).parent / "trials"


def test_no_value_and_one_value() -> None:
    for values in ([], [math.nan, math.nan]):
        found = mean_interval(np.array(values, float), confidence=0.95)
        assert found.n == 0 and not found.degenerate
        assert all(math.isnan(x) for x in (found.mean, found.sd, found.low, found.high))
    found = mean_interval(np.array([3.0, math.nan]), confidence=0.95)
    assert (found.mean, found.n, found.degenerate) == (3.0, 1, False)
    assert all(math.isnan(x) for x in (found.sd, found.low, found.high))


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3])
def test_constant_values_are_degenerate(value: float) -> None:
    found = mean_interval(np.full(20, value), confidence=0.95)
    assert (found.low, found.high, found.n) == (found.mean, found.mean, 20)
    assert found.degenerate and found.apart == 0
    assert found.mean == pytest.approx(value)
    assert found.sd == pytest.approx(0, abs=1e-12)
    assert found.p == 1.0 if value == 0 else math.isnan(found.p)


def test_nan_is_left_out() -> None:
    values = np.array([0.0, 1.0, 5.0, 2.0])
    with_nan = np.array([math.nan, 0.0, 1.0, math.nan, 5.0, 2.0])
    assert mean_interval(with_nan, confidence=0.95) == mean_interval(values, confidence=0.95)
    found = mean_interval(values, confidence=0.95)
    assert (found.mean, found.n) == (2.0, 4)
    assert found.sd == pytest.approx(np.std(values, ddof=1))


@pytest.mark.parametrize(
    "values",
    [[0, 1], [0] * 30 + [1], [1e-300, 0, 0], [0, 0, 0, 1e9], [-1] * 40 + [1], [1, 1 + 1e-15], [0] * 63 + [1e-3]],
)
def test_near_degenerate_values_give_a_finite_interval_around_the_mean(values: list[float]) -> None:
    found = mean_interval(np.array(values, float), confidence=0.95)
    assert found.low < found.mean < found.high
    assert math.isfinite(found.low) and math.isfinite(found.high)
    assert not found.degenerate and found.apart == 1


def test_without_skewness_it_is_students() -> None:
    values = np.array([1.0, 2.0, 3.0, 5.0, 7.0, 8.0, 9.0])
    found = mean_interval(values, confidence=0.9)
    expected = stats.ttest_1samp(values, 0.0)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.9)))
    assert found.p == pytest.approx(expected.pvalue)


def test_the_transformation_is_halls() -> None:
    """Hall's published cubic of the studentized mean, at a bound, is the quantile of Student's t that made it."""
    values = np.random.default_rng(0).exponential(size=25)
    found = mean_interval(values, confidence=0.95)
    skew = stats.skew(values) / math.sqrt(25)
    for bound, tail in ((found.low, 0.975), (found.high, 0.025)):
        t = (found.mean - bound) / (found.sd / math.sqrt(25))
        cubic = t + skew * t**2 / 3 + skew**2 * t**3 / 27 + skew / 6
        assert cubic == pytest.approx(stats.t.ppf(tail, 24))


@pytest.mark.parametrize("seed", range(5))
def test_p_is_where_the_interval_touches_0(seed: int) -> None:
    values = np.random.default_rng(seed).exponential(size=20) - 0.6
    p = mean_interval(values, confidence=0.95).p
    low, high = (float(end[0]) for end in mean_bounds(values[None], 1 - p))
    assert min(abs(low), abs(high)) == pytest.approx(0, abs=1e-9)


def test_ends_at_what_is_possible_and_never_short_of_the_mean() -> None:
    values = np.array([0.0] * 3 + [1.0])
    free, held = (mean_interval(values, confidence=0.95, bounds=b) for b in ((-math.inf, math.inf), (0.0, 1.0)))
    assert free.low < 0 and free.high > 1
    assert (held.low, held.high, held.p) == (0.0, 1.0, free.p)
    beyond = mean_interval(values + 3, confidence=0.95, bounds=(0.0, 1.0))
    assert beyond.high == beyond.mean


def test_small_coverage_trial_favours_the_method_that_is_used(tmp_path: Path) -> None:
    """Short form of tests/trials/coverage.py: it fails by itself where the interval used is below 93 % at n = 100."""
    out = tmp_path / "rows.json"
    words = [sys.executable, TRIALS / "coverage.py", "--runs", "1000", "--resamples", "200", "--prompts", "32", "100"]
    done = subprocess.run([*map(str, words), "--out", str(out)], capture_output=True, text=True, check=False)
    rows = [row for row in json.loads(out.read_text()) if row["named"]]
    short: dict[tuple[str, int], float] = {}
    for row in rows:
        if row["method"] != "Wilson":  # for shares alone
            key = row["method"], row["n"]
            short[key] = short.get(key, 0.0) + max(0.0, 0.95 - row["coverage"])
    for n in (32, 100):
        least = min(value for (_, prompts), value in short.items() if prompts == n)
        assert short["skew-corrected t", n] <= least + 0.03
        assert short["skew-corrected t", n] < short["BCa", n] - 0.03
    assert done.returncode == 0, done.stdout + done.stderr


def test_holm_is_the_published_one() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    found = holm([0.5, math.nan, 0.2, 0.9])
    assert math.isnan(found[1]) and [found[0], found[2], found[3]] == [1.0, pytest.approx(0.6), 1.0]
    assert holm([]) == []


def test_holm_keeps_false_differences_rare_over_a_grid() -> None:
    """20 true zeros a run: without adjustment most runs would find a difference; with it at most one in twenty does."""
    rng = np.random.default_rng(0)
    found = [[mean_interval(rng.normal(size=40), confidence=0.95).p for _ in range(20)] for _ in range(300)]
    assert np.mean([min(p) < 0.05 for p in found]) > 0.5
    assert np.mean([min(holm(p)) < 0.05 for p in found]) < 0.09


def test_pairing_gain_is_the_change_of_the_standard_error() -> None:
    rng = np.random.default_rng(0)
    own = rng.normal(size=20_000)
    a, b = own + rng.normal(size=20_000), own + rng.normal(size=20_000)
    assert pairing_gain(a, b) == pytest.approx(1 - math.sqrt(0.5), abs=0.02)
    assert pairing_gain(a, -b) == pytest.approx(1 - math.sqrt(1.5), abs=0.02)
    assert pairing_gain(a, a) == 1.0
    assert math.isnan(pairing_gain(np.ones(5), np.zeros(5)))
    assert math.isnan(pairing_gain(np.array([1.0, math.nan]), np.array([2.0, 3.0])))


def test_what_shared_prompts_and_random_numbers_are_worth_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values of a prompt's part, a shared draw's and an own one's, a third of the variance each."""
    monkeypatch.syspath_prepend(TRIALS)
    from pairing import narrower, resampled

    rng = np.random.default_rng(0)
    prompt, draw = rng.normal(size=(5000, 1)), rng.normal(size=(5000, 4))
    a, b = (prompt + draw + rng.normal(size=(5000, 4)) for _ in range(2))
    expected = 1 - math.sqrt(2 / 3), 1 - math.sqrt(1 / 3)
    assert narrower(a, b) == pytest.approx(expected, abs=0.02)
    prompts, numbers = narrower(a[:300], b[:300])
    low, high = resampled(a[:300], b[:300], 2000)
    found = np.array([prompts, numbers, numbers - prompts])
    assert np.all((low < found) & (found < high) & (high - low < 0.2))
