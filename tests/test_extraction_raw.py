"""Raw windows: single spans' window means, streamed to disk for fitters that sums can't serve."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from oracles import hidden_by_layer, whole_windows
from steerkit_plugins.extractors.offset_window import OffsetWindow
from tiny import LABELS, build

from steerkit.data.statistics import ActivationStatistics
from steerkit.data.trace import Item
from steerkit.errors import SteerkitError
from steerkit.extraction.extract import extract

WINDOW = (-6, -2)


def raw_by_hand(lm, items, layer):
    found = []
    for item in items:
        hidden = hidden_by_layer(lm.model, item.ids)[layer]
        found += [(item.trace.id, s.label, hidden[p].mean(0)) for s, p in whole_windows(item, WINDOW)]
    return sorted(found, key=lambda row: (row[0], row[1], *row[2].round(4)))


def raw_found(statistics, index):
    windows, labels, traces = statistics.at(WINDOW).raw.read(index)
    rows = zip(traces, labels, windows.numpy(), strict=True)
    return sorted(rows, key=lambda row: (row[0], row[1], *row[2].round(4)))


def same(found, expected) -> None:
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    np.testing.assert_allclose([row[2] for row in found], [row[2] for row in expected], rtol=1e-4, atol=1e-5)


def run(lm, items, folder: Path, **options):
    extractor = OffsetWindow(windows=(WINDOW,))
    return extract(lm, items, extractor, LABELS, needs={"raw"}, raw_folder=folder, **options)


@pytest.mark.parametrize("batch_tokens", [1, 150])
def test_raw_windows_equal_brute_force(llama, items, tmp_path, batch_tokens) -> None:
    statistics = run(llama, items, tmp_path, layers=[0, 2], batch_tokens=batch_tokens)
    for index, layer in enumerate([0, 2]):
        same(raw_found(statistics, index), raw_by_hand(llama, items, layer))


def test_saved_statistics_find_their_raw_windows_again(llama, items, tmp_path) -> None:
    run(llama, items, tmp_path).save(tmp_path / "all.safetensors")
    same(raw_found(ActivationStatistics.load(tmp_path / "all.safetensors"), 1), raw_by_hand(llama, items, 1))


def test_a_batch_without_eligible_spans_loses_nothing(llama, items, tmp_path) -> None:
    bare = Item(items[0].trace, [], items[0].ids)
    mixed = [bare, *items[1:]]
    same(raw_found(run(llama, mixed, tmp_path, batch_tokens=1), 0), raw_by_hand(llama, mixed, 0))


def test_two_models_may_share_a_folder(llama, items, tmp_path) -> None:
    other = build("llama", seed=1)
    first, second = run(llama, items, tmp_path), run(other, items, tmp_path)
    same(raw_found(first, 1), raw_by_hand(llama, items, 1))
    same(raw_found(second, 1), raw_by_hand(other, items, 1))


def test_no_eligible_span_at_all_is_said_in_words(llama, items, tmp_path) -> None:
    statistics = run(llama, [Item(items[0].trace, [], items[0].ids)], tmp_path)
    with pytest.raises(SteerkitError, match="no span has a whole window"):
        statistics.at(WINDOW).raw.read(0)


def test_raw_needs_a_folder(llama, items) -> None:
    with pytest.raises(SteerkitError, match=r"needs raw windows: give extract\(\) a raw_folder"):
        extract(llama, items, OffsetWindow(windows=(WINDOW,)), LABELS, needs={"raw"})
