"""AUROC over tokens, with intervals over traces, against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest

from steerkit.stats.detection import auroc, begins_within


def made(seed: int, traces: int = 20, gain: float = 0.7) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    hits = [rng.random(rng.integers(1, 40)) < 0.2 for _ in range(traces)]
    scores = [np.round(rng.normal(size=len(h)) + gain * h + rng.normal(), 1) for h in hits]  # with ties
    return scores, hits


@pytest.mark.parametrize("seed", range(4))
def test_value_equals_scikit_learns(seed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    scores, hits = made(seed)
    expected = metrics.roc_auc_score(np.concatenate(hits), np.concatenate(scores))
    found = auroc(scores, hits, resamples=200)
    assert found.mean == pytest.approx(expected, abs=1e-12)
    assert found.low < found.mean < found.high and found.n == 20


def test_resamples_are_of_whole_traces() -> None:
    scores, hits = made(1)
    doubled = auroc([*scores, *scores], [*hits, *hits], resamples=3000)
    single = auroc(scores, hits, resamples=3000)
    assert doubled.mean == pytest.approx(single.mean)
    assert (doubled.high - doubled.low) < 0.85 * (single.high - single.low)  # 1/√2 in the limit


def test_interval_covers_the_truth_at_its_level() -> None:
    """Traces with offsets of their own: an interval over tokens would be far too narrow."""
    truth = auroc(*made(99, traces=4000), resamples=100).mean
    found = [auroc(*made(seed, traces=60), resamples=400) for seed in range(120)]
    covered = sum(f.low <= truth <= f.high for f in found) / len(found)
    assert 0.88 <= covered <= 0.995


def test_nothing_to_tell_apart_is_no_number() -> None:
    assert math.isnan(auroc([], []).mean)
    assert math.isnan(auroc([np.ones(3)], [np.zeros(3, bool)]).mean)
    assert math.isnan(auroc([np.ones(3)], [np.ones(3, bool)]).mean)
    one = auroc([np.array([1.0, 2.0])], [np.array([False, True])])
    assert one.mean == 1.0 and math.isnan(one.low)


def test_begins_within() -> None:
    assert begins_within(8, [5], 2).tolist() == [False, False, False, True, True, False, False, False]
    assert begins_within(4, [0, 2], 9).tolist() == [True, True, False, False]
    assert not begins_within(3, [], 5).any()
