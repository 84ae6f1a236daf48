"""Extraction against Eq. 3 in numpy, over hidden states that HF gives one trace at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from oracles import difference_of_means, hidden_by_layer
from steerkit_plugins.extractors.offset_window import OffsetWindow
from steerkit_plugins.fitters.dom import DifferenceOfMeans
from tiny import ARCHITECTURES, LABELS, random_items, tiny

from steerkit.extraction.extract import extract
from steerkit.interfaces import OWN_TOKENS, Need

WINDOW = (-6, -2)


def relative(found: torch.Tensor, expected: np.ndarray) -> float:
    return float(np.abs(found.numpy() - expected).max() / np.abs(expected).max())


def fitted(statistics, window=WINDOW, pool=None, **options) -> np.ndarray:
    fitter = DifferenceOfMeans(**{"label": "backtracking", **options}, window=window)
    directions = fitter.fit(statistics.at(window, pool))
    assert all(value.dtype == torch.float64 for value in directions.values())
    return np.stack([directions[layer].numpy() for layer in sorted(directions)])


def states_of(lm, items):
    return [hidden_by_layer(lm.model, item.ids) for item in items]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_layer_equals_eq_3(architecture: str, items) -> None:
    lm = tiny(architecture)
    statistics = extract(lm, items, OffsetWindow(windows=(WINDOW,)), LABELS, batch_tokens=200)
    expected = difference_of_means(items, states_of(lm, items), "backtracking", WINDOW)
    assert expected.shape == (lm.depth, lm.width)
    np.testing.assert_allclose(fitted(statistics), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("overlap", ["each", "once"])
@pytest.mark.parametrize("weighting", ["trace", "span"])
@pytest.mark.parametrize("reference", ["spans", "rest", "tokens"])
@pytest.mark.parametrize("positives", ["spans", "traces"])
def test_every_reading_of_eq_3(llama, items, positives, reference, weighting, overlap) -> None:
    statistics = extract(llama, items, OffsetWindow(windows=(WINDOW,), overlap=overlap), LABELS, batch_tokens=1)
    options = {"positives": positives, "reference": reference, "weighting": weighting}
    expected = difference_of_means(items, states_of(llama, items), "backtracking", WINDOW, overlap=overlap, **options)
    np.testing.assert_allclose(fitted(statistics, **options), expected, rtol=1e-5, atol=1e-9)


def test_the_readings_differ(llama, items) -> None:
    """So that the test above can fail: no two of its oracles agree."""
    states = states_of(llama, items)
    found = [
        difference_of_means(items, states, "backtracking", WINDOW, positives=p, reference=r, weighting=w, overlap=o)
        for p in ("spans", "traces")
        for r in ("spans", "rest", "tokens")
        for w in ("trace", "span")
        for o in ("each", "once")
        if not (p == "traces" and r == "tokens" and w == "span")
    ]
    for i, a in enumerate(found):
        assert all(np.abs(a - b).max() > 1e-3 * np.abs(a).max() for b in found[:i])


@pytest.mark.parametrize("window", [(-13, -8), (-6, -1), (0, 0), (-2, 5), (0, 12), (-1, -1)])
def test_windows_that_run_off_are_dropped_and_counted(llama, items, window) -> None:
    found = extract(llama, items, OffsetWindow(windows=(window,)), LABELS).at(window)
    for label in (*LABELS, "musing"):
        firsts = [(s.first, len(i.ids)) for i in items for s in i.spans if s.label == label]
        outside = sum(first + window[0] < 1 or first + window[1] >= length for first, length in firsts)
        assert found.dropped.get(label, 0) == outside
        if label in LABELS:
            assert found.count(label, "span") == len(firsts) - outside
    assert found.count("all", "span") + sum(found.dropped.values()) == sum(len(i.spans) for i in items)
    expected = difference_of_means(items, states_of(llama, items), "backtracking", window)
    beside = extract(llama, items, OffsetWindow(windows=((-3, 3), window)), LABELS)
    assert list(beside.windows) == [(-3, 3), window]
    np.testing.assert_allclose(fitted(beside, window), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("label", ["backtracking", "deduction"])
def test_a_spans_own_tokens_are_a_window(llama, items, label) -> None:
    """S_i of Eq. 3 as the labelled tokens themselves, each once, and beside another window."""
    statistics = extract(llama, items, OffsetWindow(windows=(WINDOW, OWN_TOKENS)), LABELS, batch_tokens=150)
    states = states_of(llama, items)

    def mean(wanted):
        each = []
        for item, hidden in zip(items, states, strict=True):
            own = {
                t for s in item.spans if wanted in (s.label, None) and s.first >= 1 for t in range(s.first, s.last + 1)
            }
            each += [hidden[:, sorted(own)].mean(1)] if own else []
        return np.mean(each, 0)

    found = fitted(statistics, OWN_TOKENS, label=label)
    np.testing.assert_allclose(found, mean(label) - mean(None), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(
        fitted(statistics), difference_of_means(items, states, "backtracking", WINDOW), rtol=1e-5, atol=1e-7
    )


def test_once_leaves_the_sweep_alone(llama, items) -> None:
    sweep = (-15, 2)
    once = extract(llama, items, OffsetWindow(windows=(WINDOW,), overlap="once", sweep=sweep), LABELS)
    each = extract(llama, items, OffsetWindow(windows=(WINDOW,), sweep=sweep), LABELS)
    np.testing.assert_array_equal(fitted(once, WINDOW, sweep), fitted(each, WINDOW, sweep))
    assert np.abs(fitted(once) - fitted(each)).max() > 1e-3
    with pytest.raises(ValueError, match="keeps no offsets"):
        OffsetWindow(windows=(WINDOW,), overlap="once", sweep=WINDOW)


def test_a_plugins_positions_need_not_follow_each_other(llama, items) -> None:
    class EverySecond(OffsetWindow):
        def positions(self, trace, spans, window):
            found = np.array([s.first for s in spans]).reshape(-1, 1) + 2 * np.arange(window[0], window[1] + 1)
            inside = (found[:, 0] >= 1) & (found[:, -1] < len(trace.tokens))
            return np.where(inside[:, None], found, -1)

    found = extract(llama, items, EverySecond(windows=((-3, 1),)), LABELS, batch_tokens=200).at((-3, 1))
    each = []
    for item, hidden in zip(items, states_of(llama, items), strict=True):
        firsts = [s.first for s in item.spans if s.first - 6 >= 1 and s.first + 2 < len(item.ids)]
        each += [np.stack([hidden[:, [first + 2 * o for first in firsts]].mean(1) for o in range(-3, 2)], 1)] * bool(
            firsts
        )
    sums = found.sums[0, found.group("all")] / found.count("all")
    np.testing.assert_allclose(sums, np.mean(each, 0), rtol=1e-4, atol=1e-6)


def test_some_windows_of_the_test_data_do_run_off(items) -> None:
    firsts = [(s.first, len(i.ids)) for i in items for s in i.spans]
    assert any(first - 13 < 1 for first, _ in firsts)
    assert any(first + 5 >= length for first, length in firsts)


def test_a_sweeps_windows_share_the_spans_eligible_for_all_of_it(llama, items) -> None:
    sweep = (-12, 4)
    statistics = extract(llama, items, OffsetWindow(windows=(WINDOW,), sweep=sweep), LABELS, batch_tokens=1)
    states = states_of(llama, items)
    windows = [(a, b) for a in range(sweep[0], sweep[1] + 1) for b in range(a, sweep[1] + 1)]
    for window in windows:
        expected = difference_of_means(items, states, "backtracking", window, must_hold=sweep)
        np.testing.assert_allclose(fitted(statistics, window, sweep), expected, rtol=1e-5, atol=1e-6)
    own = fitted(statistics)
    np.testing.assert_allclose(own, difference_of_means(items, states, "backtracking", WINDOW), rtol=1e-5, atol=1e-6)
    assert np.abs(own - fitted(statistics, WINDOW, sweep)).max() > 1e-3  # other spans, another vector


@pytest.mark.parametrize("batch_tokens", [1, 60, 137, 10_000])
def test_batches_and_order_do_not_matter(llama, items, batch_tokens) -> None:
    def run(some, tokens):
        return extract(llama, some, OffsetWindow(windows=(WINDOW,)), LABELS, batch_tokens=tokens).at(WINDOW)

    one, other = run(items, 1), run(items[::-1], batch_tokens)
    torch.testing.assert_close(one.sums, other.sums, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(one.tokens, other.tokens, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(one.norms, other.norms, rtol=1e-5, atol=1e-5)
    assert torch.equal(one.counts, other.counts)
    assert one.dropped == other.dropped


@pytest.mark.parametrize("overlap", ["each", "once"])
def test_shards_of_whole_traces_add_up(llama, items, overlap) -> None:
    def run(some):
        needs: set[Need] = {"means", "squares"}
        extractor = OffsetWindow(windows=(WINDOW, (0, 3)), overlap=overlap)
        return extract(llama, some, extractor, LABELS, needs=needs, batch_tokens=1)

    whole, summed = run(items), run(items[:2]) + run(items[2:7]) + run(items[7:])
    for window, a in whole.windows.items():
        b = summed.windows[window]
        for name in ("sums", "squares", "counts", "tokens", "norms"):
            torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=1e-12, atol=1e-12)
        assert (a.traces, a.dropped) == (b.traces, b.dropped)


def test_sums_are_float64_to_the_last_digits(llama, items) -> None:
    """One trace a batch runs the oracle's own forward, so nothing but rounding in the sums may differ."""
    statistics = extract(llama, items, OffsetWindow(windows=(WINDOW,)), LABELS, batch_tokens=1).at(WINDOW)
    states = states_of(llama, items)
    assert (
        relative(torch.from_numpy(fitted_of(statistics)), difference_of_means(items, states, "backtracking", WINDOW))
        < 1e-12
    )
    own = [h[:, len(i.trace.prompt_ids) :] for i, h in zip(items, states, strict=True)]
    assert relative(statistics.tokens_mean(), np.mean([h.mean(1) for h in own], 0)) < 1e-12
    lengths = np.mean([np.linalg.norm(h, axis=-1).mean(1) for h in own], 0)
    assert relative(statistics.residual_norm(), lengths) < 1e-6


def fitted_of(window) -> np.ndarray:
    found = DifferenceOfMeans(label="backtracking", window=WINDOW).fit(window)
    return np.stack([found[layer].numpy() for layer in sorted(found)])


def test_squares_equal_numpy(llama, items) -> None:
    from oracles import mean_act, whole_windows

    found = extract(llama, items, OffsetWindow(windows=(WINDOW,)), LABELS, needs={"means", "squares"}).at(WINDOW)
    sets = [
        (hidden_by_layer(llama.model, i.ids) ** 2, [p for s, p in whole_windows(i, WINDOW) if s.label != "deduction"])
        for i in items
    ]
    for weighting in ("trace", "span"):
        expected = mean_act(sets, weighting, "each")
        assert relative(found.mean_square("rest:deduction", weighting), expected) < 1e-5


def test_mapped_ids_are_what_the_model_reads(llama, items) -> None:
    from steerkit.data.trace import Item

    mapped = [Item(i.trace, i.spans, [7 if t == 9 else t for t in i.ids]) for i in items]
    assert any(list(m.ids) != list(i.ids) for m, i in zip(mapped, items, strict=True))
    found = extract(llama, mapped, OffsetWindow(windows=(WINDOW,)), LABELS, batch_tokens=1)
    expected = difference_of_means(mapped, states_of(llama, mapped), "backtracking", WINDOW)
    np.testing.assert_allclose(fitted(found), expected, rtol=1e-5, atol=1e-8)


def test_kept_tensors_do_not_grow_with_the_number_of_traces(llama) -> None:
    def kept(count: int) -> int:
        found = extract(
            llama,
            random_items(count),
            OffsetWindow(windows=(WINDOW,), sweep=(-12, 4)),
            LABELS,
            needs={"means", "squares"},
            batch_tokens=300,
        )
        tensors = [v for w in found.windows.values() for v in vars(w).values() if isinstance(v, torch.Tensor)]
        return sum(t.numel() * t.element_size() for t in tensors)

    assert kept(4) == kept(24) > 0


def test_a_trace_without_tokens_of_its_own_leaves_the_token_means_alone(llama, items) -> None:
    from dataclasses import replace

    from steerkit.data.trace import Item

    empty = replace(items[0].trace, id="empty", ids=(), starts=(), text="")
    with_it = extract(llama, [*items, Item(empty, [], empty.tokens)], OffsetWindow(windows=(WINDOW,)), LABELS)
    without = extract(llama, items, OffsetWindow(windows=(WINDOW,)), LABELS)
    torch.testing.assert_close(with_it.at(WINDOW).tokens_mean(), without.at(WINDOW).tokens_mean(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(with_it.at(WINDOW).residual_norm(), without.at(WINDOW).residual_norm())
