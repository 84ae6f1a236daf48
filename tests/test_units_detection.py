"""Marks by hand; AUROC, errors, probe and lift against plain loops, scikit-learn and planted units."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from tiny import random_items

from steerkit.data.trace import Item, Span, Trace
from steerkit.errors import SteerkitError
from steerkit.stats.auroc_contrast import auroc_contrast
from steerkit.stats.detection import auroc
from steerkit.stats.intervals import holm
from steerkit.units import aurocs as aurocs_module
from steerkit.units.aurocs import unit_aurocs
from steerkit.units.detection import contrast, detect, halves, lift
from steerkit.units.marks import Marks, marks_of
from steerkit.units.probe import fit_probe, logistic

Values = dict[str, np.ndarray]


def item_of(labels: dict[int, str], prompt: int = 3, length: int = 12, thinking: int = 10) -> Item:
    """A trace of single-character tokens whose spans begin at these places of the response."""
    text = "x" * thinking
    trace = Trace(
        id="t",
        prompt_id="t",
        prompt="",
        text=text,
        answer_text="y" * (length - thinking),
        prompt_ids=(1,) * prompt,
        ids=(2,) * length,
        starts=tuple(range(length)),
    )
    spans = [
        Span(trace_id="t", label=label, judge="", start=at, end=at + 1, first=prompt + at, last=prompt + at)
        for at, label in labels.items()
    ]
    return Item(trace, spans, trace.tokens)


def test_a_hit_is_the_token_before_a_span() -> None:
    item = item_of({0: "back", 4: "other", 7: "back", 9: "back"})
    every, ends = (marks_of([item], "back", which)["t"] for which in ("all tokens", "sentence ends"))
    # Prompt tokens 0 to 2; the response's reasoning is 3 to 12, its answer 13 and 14.
    assert np.flatnonzero(every.candidates).tolist() == list(range(3, 12))
    assert np.flatnonzero(every.hits).tolist() == [9, 11]
    assert np.flatnonzero(ends.candidates).tolist() == [6, 9, 11]
    assert np.flatnonzero(ends.hits).tolist() == [9, 11]
    assert not marks_of([item], "none", "sentence ends")["t"].hits.any()


def test_marks_of_random_traces_are_those_of_a_loop() -> None:
    for item in random_items(12):
        begin, end = len(item.trace.prompt_ids), len(item.trace.tokens)
        for which in ("all tokens", "sentence ends"):
            own = marks_of([item], "backtracking", which)[item.trace.id]
            for t in range(end):
                next_ = [span.label for span in item.spans if span.first == t + 1 and begin <= t]
                assert own.hits[t] == ("backtracking" in next_)
                assert own.candidates[t] == (bool(next_) if which == "sentence ends" else begin <= t < end - 1)


def made(traces: int, units: int = 5, seed: int = 0, *, coarse: bool = True, length: int = 30) -> tuple[Values, dict]:
    """Numbers with ties; unit 2 is higher at hits, unit 3 lower."""
    rng = np.random.default_rng(seed)
    values, marks = {}, {}
    for number in range(traces):
        v = rng.standard_normal((rng.integers(3, length), units)) + rng.standard_normal(units) / 2
        hits = rng.random(len(v)) < 0.25
        v[hits, 2] += 1.5
        v[hits, 3] -= 1
        values[f"t{number}"] = (np.round(v, 1) if coarse else v).astype(np.float32)
        marks[f"t{number}"] = Marks(hits | (rng.random(len(v)) < 0.7), hits)
    return values, marks


def flat(values: Values, marks: dict[str, Marks], traces: list[str]) -> tuple[np.ndarray, np.ndarray]:
    x = np.concatenate([values[t][marks[t].candidates] for t in traces])
    return x, np.concatenate([marks[t].hits[marks[t].candidates] for t in traces])


@pytest.mark.parametrize("rows", [1, 2**15])
@pytest.mark.parametrize("coarse", [True, False])
def test_aurocs_of_all_units_are_scikit_learns(rows: int, coarse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aurocs_module, "ROWS", rows)
    values, marks = made(15, coarse=coarse)
    x, y = flat(values, marks, list(values))
    found = unit_aurocs(values, marks, list(values))
    assert found.hits == y.sum() and found.traces == sum(mark.hits.any() for mark in marks.values())
    np.testing.assert_allclose(found.value, [roc_auc_score(y, x[:, u]) for u in range(5)], rtol=1e-12)


def test_standard_errors_are_those_of_the_paper_and_near_the_bootstraps() -> None:
    values, marks = made(150, seed=1)
    names = list(values)
    found = unit_aurocs(values, marks, names)
    for unit in range(5):
        # Obuchowski (1997), written out: structural components, summed within clusters.
        score = {t: values[t][:, unit].astype(float) for t in names}
        x = [score[t][marks[t].hits] for t in names]
        y = [score[t][marks[t].candidates & ~marks[t].hits] for t in names]
        all_x, all_y = np.concatenate(x), np.concatenate(y)

        def above(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            return (a[:, None] > b[None]).mean(1) + (a[:, None] == b[None]).mean(1) / 2

        v10 = [above(own, all_y) for own in x]
        v01 = [1 - above(own, all_x) for own in y]
        theta = np.concatenate(v10).mean()
        a = np.array([own.sum() - len(own) * theta for own in v10])
        b = np.array([own.sum() - len(own) * theta for own in v01])
        i10, i01, i = sum(map(bool, map(len, x))), sum(map(bool, map(len, y))), len(names)
        m, n = len(all_x), len(all_y)
        s10 = i10 / ((i10 - 1) * m) * (a**2).sum()
        s01 = i01 / ((i01 - 1) * n) * (b**2).sum()
        s11 = i / (i - 1) * (a * b).sum()
        assert found.error[unit] == pytest.approx(np.sqrt(s10 / m + s01 / n + 2 * s11 / (m * n)), rel=1e-9)
        whole = [(score[t][marks[t].candidates], marks[t].hits[marks[t].candidates]) for t in names]
        sd = auroc([s for s, _ in whole], [h for _, h in whole]).sd
        assert found.error[unit] == pytest.approx(sd, rel=0.1)


def test_a_contrast_of_one_is_the_auroc_and_of_two_their_difference() -> None:
    values, marks = made(30)
    hits = [marks[t].hits for t in values]
    one, other = ([values[t][:, unit] for t in values] for unit in (2, 0))
    assert auroc_contrast([(1.0, one)], hits) == auroc(one, hits)
    difference = auroc_contrast([(1.0, one), (-1.0, other)], hits, seed=4)
    assert difference.mean == pytest.approx(auroc(one, hits).mean - auroc(other, hits).mean)
    # The bootstrap by hand: whole traces drawn, both AUROCs on the same ones.
    drawn = np.random.default_rng(4).multinomial(30, np.full(30, 1 / 30), size=2000)
    by_hand = []
    for weights in drawn[:200]:
        which = np.repeat(np.arange(30), weights)
        y = np.concatenate([hits[i] for i in which])
        by_hand.append(
            roc_auc_score(y, np.concatenate([one[i] for i in which]))
            - roc_auc_score(y, np.concatenate([other[i] for i in which]))
        )
    assert difference.sd == pytest.approx(np.std(by_hand), rel=0.2)
    same = auroc_contrast([(1.0, one), (-1.0, one)], hits)
    assert (same.mean, same.low, same.high) == (0.0, 0.0, 0.0)
    assert np.isnan(auroc_contrast([(1.0, one)], [np.zeros_like(h) for h in hits]).mean)


def test_halves_are_dealt_by_seed_and_not_by_order() -> None:
    names = [f"t{i}" for i in range(9)]
    one, other = halves(names, 0)
    assert len(one) == 5 and one | other == set(names) and not one & other
    assert halves(names[::-1], 0) == (one, other) and halves(names, 1) != (one, other)


def test_the_best_unit_is_chosen_on_one_half_and_tested_on_the_other() -> None:
    values, marks = made(120, seed=2)
    choosing, testing = halves(list(values), 0)
    found = detect(values, marks, choosing, testing)
    assert (found.best, found.sign) == (2, 1)
    for half, own in ((choosing, found.choosing), (testing, found.testing)):
        x, y = flat(values, marks, sorted(half))
        np.testing.assert_allclose(own, [roc_auc_score(y, x[:, u]) for u in range(5)])
    assert found.tested.mean == pytest.approx(found.testing[2]) and found.tested.low > 0.6
    assert (found.p[[2, 3]] < 1e-6).all() and (found.p[[0, 1, 4]] > 0.01).all()
    flipped = {name: own * np.array([1, 1, -1, 1, 1], np.float32) for name, own in values.items()}
    turned = detect(flipped, marks, choosing, testing)
    assert (turned.best, turned.sign) == (2, -1) and turned.tested.mean == pytest.approx(found.tested.mean)
    np.testing.assert_allclose(turned.p, found.p)


def test_units_that_tell_nothing_are_found_as_often_as_the_level_says() -> None:
    """2,000 null units: p is uniform, so that Holm keeps false discoveries away."""
    rng, values, marks = np.random.default_rng(3), {}, {}
    for number in range(80):
        own = rng.standard_normal((20, 2000)) + rng.standard_normal(2000)
        hits = rng.random(20) < 0.15
        values[f"t{number}"], marks[f"t{number}"] = own.astype(np.float32), Marks(np.ones(20, bool), hits)
    choosing, testing = halves(list(values), 0)
    found = detect(values, marks, choosing, testing)
    assert found.p.min() > 0.01
    tested = unit_aurocs(values, marks, sorted(testing))
    z = (tested.value - 0.5) / tested.error
    assert np.abs(z).mean() == pytest.approx(np.sqrt(2 / np.pi), rel=0.1)


def test_few_traces_cannot_give_small_p_values() -> None:
    """A unit that is right everywhere has no spread: p is that of three traces, not 0."""
    values = {f"t{i}": np.arange(4, dtype=np.float32)[:, None] for i in range(6)}
    marks = {name: Marks(np.ones(4, bool), np.arange(4) == 3) for name in values}
    found = detect(values, marks, frozenset({"t0", "t1", "t2"}), frozenset({"t3", "t4", "t5"}))
    assert found.tested.mean == 1 and found.p.tolist() == holm([0.125])


def test_halves_without_hits() -> None:
    values, marks = made(8)
    none = {name: Marks(mark.candidates, np.zeros_like(mark.hits)) for name, mark in marks.items()}
    choosing, testing = halves(list(values), 0)
    with pytest.raises(SteerkitError, match="the choosing half has 0 hits"):
        detect(values, none, choosing, testing)
    found = detect(values, {**marks, **{name: none[name] for name in testing}}, choosing, testing)
    assert np.isnan(found.testing).all() and np.isnan(found.tested.mean) and np.isnan(found.p).all()
    with pytest.raises(SteerkitError, match="8 traces are in both halves"):
        detect(values, marks, set(values), set(values))


@pytest.mark.parametrize("penalty", [0.1, 1.0, 30.0])
def test_the_probe_is_scikit_learns_ridge_regression(penalty: float) -> None:
    values, marks = made(40, coarse=False)
    choosing, _ = halves(list(values), 0)
    probe = fit_probe(values, marks, choosing, penalty=penalty)
    x, y = flat(values, marks, sorted(choosing))
    standard = (x - x.mean(0)) / x.std(0)
    wanted = LogisticRegression(C=1 / penalty, tol=1e-12, max_iter=10_000).fit(standard, y)
    np.testing.assert_allclose(probe.weights, wanted.coef_[0], atol=5e-4)  # scikit-learn's are float32
    assert probe.bias == pytest.approx(wanted.intercept_[0], abs=5e-4)
    np.testing.assert_allclose(
        probe.scores(values["t0"]), wanted.decision_function((values["t0"] - x.mean(0)) / x.std(0)), atol=1e-3
    )


def test_the_probe_is_found_where_classes_come_apart_and_where_units_are_alike() -> None:
    x = np.array([[-2.0, -2], [-1, -1], [1, 1], [2, 2]]) * 50
    weights, bias = logistic(x, np.array([0.0, 0, 1, 1]), 1.0)
    assert weights[0] == pytest.approx(weights[1]) and weights[0] > 0 and abs(bias) < 1e-6


def test_a_draw_of_non_hits_moves_the_bias_alone() -> None:
    values, marks = made(400, coarse=False, seed=6)
    whole = fit_probe(values, marks, set(values))
    part = fit_probe(values, marks, set(values), rows=3000)
    kept = fit_probe(values, marks, set(values), rows=10**6)
    assert np.array_equal(kept.weights, whole.weights)
    assert part.weights / part.scale == pytest.approx(whole.weights / whole.scale, abs=0.15)
    assert not np.array_equal(part.weights, whole.weights)
    with pytest.raises(SteerkitError, match="it needs both"):
        fit_probe(values, {t: Marks(m.candidates, m.candidates) for t, m in marks.items()}, set(values))


def test_lift_is_the_share_among_the_strongest_over_the_share_of_all() -> None:
    values, marks = made(20, coarse=False)
    x, y = flat(values, marks, sorted(values))
    for unit, sign in ((2, 1), (3, -1), (0, 1)):
        order = np.argsort(-sign * x[:, unit])[:40]
        found = lift(values, marks, set(values), unit, sign, 40)
        assert found == pytest.approx(y[order].mean() / y.mean())
    assert lift(values, marks, set(values), 2, 1, 10**6) == pytest.approx(1)
    tied = {"t": np.zeros((10, 1), np.float32)}
    one = {"t": Marks(np.ones(10, bool), np.arange(10) < 3)}
    assert lift(tied, one, {"t"}, 0, 1, 4) == pytest.approx(1)
    assert np.isnan(lift(tied, {"t": Marks(np.ones(10, bool), np.zeros(10, bool))}, {"t"}, 0, 1, 4))


def test_contrasts_are_over_traces_that_all_scores_have() -> None:
    values, marks = made(12)
    one = {name: own[:, 2] for name, own in values.items()}
    other = {name: own[:, 0] for name, own in values.items() if name != "t3"}
    assert contrast([(1.0, one), (-1.0, other)], marks).n == 11
