"""Agreement of judges, against scikit-learn, krippendorff and scipy."""

from __future__ import annotations

import math
import random
import time

import krippendorff
import numpy as np
import pytest
from scipy.stats import bootstrap
from sklearn.metrics import cohen_kappa_score, confusion_matrix, precision_recall_fscore_support

from steerkit.errors import SteerkitError
from steerkit.stats.agreement import Agreement, agreement
from steerkit.stats.intervals import cluster_intervals

NAMES = ["a", "b", "c", "other"]


def labelled(seed: int, n: int = 600, holes: bool = False) -> tuple[dict[str, list[str | None]], list[str]]:
    """Three judges who agree more often than not, and traces of a dozen units."""
    draw = random.Random(seed)
    truth = draw.choices(NAMES, [1, 2, 4, 1], k=n)
    judged: dict[str, list[str | None]] = {
        judge: [name if draw.random() < 0.7 else draw.choice(NAMES) for name in truth] for judge in ("A", "B", "C")
    }
    if holes:
        judged["C"] = [None if draw.random() < 0.3 else name for name in judged["C"]]
    return judged, [f"t{i // 12}" for i in range(n)]


def alpha_of(judged: dict[str, list[str | None]], labels: tuple[str, ...]) -> float:
    data = [[math.nan if x is None else labels.index(x) for x in each] for each in judged.values()]
    return float(krippendorff.alpha(np.array(data), level_of_measurement="nominal"))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("holes", [False, True])
def test_figures_are_those_of_sklearn_and_krippendorff(seed: int, holes: bool) -> None:
    judged, clusters = labelled(seed, holes=holes)
    found = agreement(judged, clusters, resamples=100)
    assert [(p.reference, p.judge) for p in found.pairs] == [("A", "B"), ("A", "C"), ("B", "C")]
    for pair in found.pairs:
        both = [
            (x, y)
            for x, y in zip(judged[pair.reference], judged[pair.judge], strict=True)
            if x is not None and y is not None
        ]
        a, b = zip(*both, strict=True)
        assert (pair.n_units, pair.missing, pair.n_clusters) == (len(both), 600 - len(both), 50)
        assert pair.kappa.value == pytest.approx(cohen_kappa_score(a, b))
        assert np.array_equal(pair.table, confusion_matrix(a, b, labels=pair.labels))
        expected = np.array(precision_recall_fscore_support(a, b, labels=pair.labels))[:3].T
        ours = [(e.precision.value, e.recall.value, e.f1.value) for e in pair.by_label]
        assert np.allclose(ours, expected)
    assert found.alpha.value == pytest.approx(alpha_of(judged, found.labels))


def test_labels_that_do_not_count_are_other() -> None:
    judged, clusters = labelled(0)
    found = agreement(judged, clusters, labels=["b"], resamples=100)
    merged = {judge: [x if x == "b" else "other" for x in each] for judge, each in judged.items()}
    assert found == agreement(merged, clusters, labels=["b", "other"], resamples=100)
    assert found.labels == ("b", "other")


def test_the_most_frequent_label_comes_first_and_other_last() -> None:
    judged, clusters = labelled(1)
    assert agreement(judged, clusters, resamples=100).labels == ("c", "b", "a", "other")


def test_judges_that_agree_and_judges_with_one_label() -> None:
    same = agreement({"A": ["a", "b", "a", "b"], "B": ["a", "b", "a", "b"]}, list("wxyz"), resamples=200)
    assert same.pairs[0].kappa.value == same.alpha.value == 1.0
    assert same.pairs[0].by_label[0].f1 == (1.0, 1.0, 1.0)
    one = agreement({"A": ["a", "a"], "B": ["a", "a"]}, ["x", "y"], resamples=200)
    assert math.isnan(one.pairs[0].kappa.value) and math.isnan(one.alpha.value)
    assert one.pairs[0].agreement == (1.0, 1.0, 1.0)


def test_a_label_that_the_judge_never_gives_has_no_precision() -> None:
    found = agreement({"A": ["a", "b", "b"], "B": ["b", "b", "b"]}, list("xyz"), resamples=200)
    a = next(each for each in found.pairs[0].by_label if each.label == "a")
    assert math.isnan(a.precision.value) and a.recall.value == a.f1.value == 0.0
    assert (a.n_reference, a.n_judge, a.n_both) == (1, 0, 0)


def test_judges_without_a_common_unit() -> None:
    found = agreement({"A": ["a", None], "B": [None, "a"]}, ["x", "y"], resamples=100)
    assert (found.pairs[0].n_units, found.pairs[0].missing) == (0, 2)
    assert math.isnan(found.pairs[0].kappa.value) and math.isnan(found.alpha.value)


def test_one_trace_has_no_interval() -> None:
    found = agreement({"A": ["a", "b", "b"], "B": ["b", "b", "b"]}, ["x", "x", "x"], resamples=100)
    assert not math.isnan(found.pairs[0].agreement.value)
    assert math.isnan(found.pairs[0].agreement.low) and math.isnan(found.alpha.high)


@pytest.mark.parametrize(
    ("judged", "clusters", "message"),
    [
        ({"A": ["a"]}, ["x"], "two judges or more, not 1"),
        ({"A": ["a"], "B": []}, ["x"], "the same units"),
        ({"A": [], "B": []}, [], "at least one"),
    ],
)
def test_what_cannot_be_compared(judged: dict[str, list[str | None]], clusters: list[str], message: str) -> None:
    with pytest.raises(SteerkitError, match=message):
        agreement(judged, clusters)


def test_intervals_are_those_of_scipy() -> None:
    draw = np.random.default_rng(0)
    counts = draw.poisson([3.0, 9.0], size=(40, 2)).astype(float)

    def share(sums: np.ndarray) -> np.ndarray:
        return sums[:, :1] / sums.sum(axis=1, keepdims=True)

    value, low, high = cluster_intervals(counts, share, confidence=0.9, resamples=20_000, seed=0)
    expected = bootstrap(
        (counts[:, 0], counts[:, 1]),
        lambda a, b, axis: a.sum(axis) / (a.sum(axis) + b.sum(axis)),
        paired=True,
        vectorized=True,
        confidence_level=0.9,
        n_resamples=20_000,
        method="BCa",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert value[0] == pytest.approx(counts[:, 0].sum() / counts.sum())
    assert (low[0], high[0]) == pytest.approx((expected.low, expected.high), abs=0.002)


def test_whole_traces_are_resampled_not_units() -> None:
    """Units of a trace that are all alike add nothing to what the trace says."""
    judged = {"A": ["a", "b"] * 10, "B": ["a", "b"] * 7 + ["b", "a"] * 3}
    clusters = [f"t{i}" for i in range(20)]
    few = agreement(judged, clusters, resamples=2000)
    many = agreement({judge: each * 30 for judge, each in judged.items()}, clusters * 30, resamples=2000)
    assert many.pairs[0].agreement == pytest.approx(few.pairs[0].agreement)
    apart = agreement(
        {judge: each * 30 for judge, each in judged.items()}, [str(i) for i in range(600)], resamples=2000
    )
    assert width(apart) < width(few) / 4


def width(found: Agreement) -> float:
    return found.pairs[0].agreement.high - found.pairs[0].agreement.low


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Agreement of 80 % in the mean, from trace to trace between 60 % and 100 %."""
    draw, covered = np.random.default_rng(3), 0
    for _ in range(300):
        truth = draw.uniform(0.6, 1.0, size=40)
        hits = (draw.random((40, 10)) < truth[:, None]).ravel()
        judged = {"A": ["a"] * 400, "B": ["a" if hit else "b" for hit in hits]}
        found = agreement(judged, [f"t{i // 10}" for i in range(400)], confidence=0.9, resamples=300).pairs[0].agreement
        covered += found.low <= 0.8 <= found.high
    assert 0.84 <= covered / 300 <= 0.96


def test_the_bootstrap_is_fast() -> None:
    judged, clusters = labelled(0, n=20_000)
    began = time.monotonic()
    agreement(judged, clusters, resamples=2000)
    assert time.monotonic() - began < 60
