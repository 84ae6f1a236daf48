"""Draws and folds of single windows: those of the sums, for fitters that sums can't serve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles import hidden_by_layer, whole_windows
from steerkit_plugins.extractors.offset_window import OffsetWindow
from steerkit_plugins.fitters.dom import DifferenceOfMeans
from tiny import LABELS, random_items, tiny

from steerkit.data.draws import KINDS, Draws, draw, draw_name
from steerkit.data.statistics import ActivationStatistics
from steerkit.data.trace import Item
from steerkit.data.windows import WindowStatistics
from steerkit.errors import SteerkitError
from steerkit.extraction import raw_windows
from steerkit.extraction.drawn_sums import spans_of
from steerkit.extraction.extract import extract
from steerkit.interfaces import VectorFitter
from steerkit.vectors.facts import left_out, split_half_cosines
from steerkit.vectors.fit import fit_drawn

LABEL, WINDOW = LABELS[0], (-4, -1)
EXTRACTOR = OffsetWindow(windows=(WINDOW,), sweep=(-8, 3))
NAMES = [draw_name(kind, number) for kind in KINDS for number in range(2)]
FOLDS = 4
DOM = DifferenceOfMeans(label=LABEL, window=WINDOW)


class RawDom(VectorFitter):
    """What `dom` does, of single windows."""

    Config = DOM.Config
    needs = frozenset({"means", "raw"})

    def fit(self, statistics: WindowStatistics) -> Mapping[int, torch.Tensor]:
        assert statistics.raw is not None
        found = {}
        for index, layer in enumerate(statistics.layers):
            windows, labels, traces = statistics.raw.read(index)
            rows = {group: [i for i, label in enumerate(labels) if group in ("all", label)] for group in ("all", LABEL)}
            found[layer] = self._mean(windows, traces, rows[LABEL]) - self._mean(windows, traces, rows["all"])
        return found

    def _mean(self, windows: torch.Tensor, traces: Sequence[str], rows: Sequence[int]) -> torch.Tensor:
        by_trace: dict[str, list[int]] = {}
        for row in rows:
            by_trace.setdefault(traces[row] if self.config.weighting == "trace" else "", []).append(row)
        return torch.stack([windows[own].double().mean(0) for own in by_trace.values()]).mean(0)


class Medians(VectorFitter):
    """A difference of medians: no function of sums."""

    Config = DOM.Config
    needs = frozenset({"raw"})

    def fit(self, statistics: WindowStatistics) -> Mapping[int, torch.Tensor]:
        assert statistics.raw is not None
        found = {}
        for index, layer in enumerate(statistics.layers):
            windows, labels, _ = statistics.raw.read(index)
            has = np.array(labels) == LABEL
            medians = [np.median(windows.numpy()[own], axis=0) for own in (has, ~has)]
            found[layer] = torch.from_numpy(medians[0] - medians[1]).double()
        return found


@pytest.fixture(scope="module")
def many() -> list[Item]:
    return random_items(24, seed=3)


@pytest.fixture(scope="module")
def draws(many: list[Item]) -> Draws:
    spans = spans_of(many, EXTRACTOR, LABEL, WINDOW)
    return draw(spans, NAMES, label=LABEL, window=WINDOW, folds=FOLDS, seed=1)


def read(items: Sequence[Item], draws: Draws | None, folder: Path, **more: Any) -> ActivationStatistics:
    lm = tiny("llama")
    return extract(lm, items, EXTRACTOR, LABELS, needs={"means", "raw"}, raw_folder=folder, draws=draws, **more)


@pytest.fixture(scope="module")
def statistics(many: list[Item], draws: Draws, tmp_path_factory: pytest.TempPathFactory) -> ActivationStatistics:
    """Of two pieces, in several shards each, that came back from disk."""
    folder, parts = tmp_path_factory.mktemp("raw"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(raw_windows, "SHARD_BYTES", 5000)
        for number, items in enumerate((many[:10], many[10:])):
            own = read(items, draws.only(item.trace.id for item in items), folder, batch_tokens=100)
            own.save(folder / f"{number}.safetensors")
            parts.append(ActivationStatistics.load(folder / f"{number}.safetensors"))
    whole = parts[0] + parts[1]
    raw = whole.at(WINDOW).raw
    assert raw is not None and len(raw.files) > 4
    return whole


@pytest.mark.parametrize("weighting", ["trace", "span"])
def test_a_mean_of_single_windows_is_that_of_the_sums(statistics: ActivationStatistics, weighting: str) -> None:
    options = {"label": LABEL, "window": WINDOW, "weighting": weighting}
    of_sums, of_windows = DifferenceOfMeans(**options), RawDom(**options)
    scale = float(statistics.at(WINDOW).mean("all").norm(dim=1).max())
    for name in NAMES:
        expected, found = (fit_drawn(fitter, statistics, name, source="x") for fitter in (of_sums, of_windows))
        for layer in expected.layers:
            close(found.direction(layer) / scale, expected.direction(layer) / scale)
    drawn = statistics.drawn
    assert drawn is not None
    for chosen in ([0], [3, 1], range(FOLDS)):
        window = drawn.of_folds(chosen, statistics.at(WINDOW))
        for layer, direction in of_sums.fit(window).items():
            close(of_windows.fit(window)[layer] / scale, direction / scale)
    close(split_half_cosines(of_windows, statistics, splits=5), split_half_cosines(of_sums, statistics, splits=5))
    for found_part, expected_part in zip(left_out(of_windows, statistics), left_out(of_sums, statistics), strict=True):  # type: ignore[arg-type]
        close(found_part[0], expected_part[0])
        close(found_part[1], expected_part[1])


def close(found: Any, expected: Any) -> None:
    torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(expected), rtol=0, atol=2e-6)


def test_medians_are_those_of_relabelled_windows(
    many: list[Item], draws: Draws, statistics: ActivationStatistics
) -> None:
    """Against HF's hidden states, one trace at a time, and numpy."""
    windows, drawn, judged, folds = [], [], [], []
    for item in many:
        hidden, number = hidden_by_layer(tiny("llama").model, item.ids), {id(s): n for n, s in enumerate(item.spans)}
        for span, places in whole_windows(item, WINDOW):
            windows.append(hidden[:, places].mean(1))
            drawn.append(draws.of[item.trace.id].positive[:, number[id(span)]])
            judged.append(span.label == LABEL)
            folds.append(draws.of[item.trace.id].fold)
    stacked, fitter = np.stack(windows), Medians(label=LABEL, window=WINDOW)

    def medians(has: np.ndarray, among: np.ndarray) -> np.ndarray:
        return np.median(stacked[has & among], axis=0) - np.median(stacked[~has & among], axis=0)

    everywhere, own = np.ones(len(stacked), bool), np.array(judged)
    directions = []
    for column, name in enumerate(draws.names):
        found = fit_drawn(fitter, statistics, name, source="x")
        expected = medians(np.array(drawn)[:, column], everywhere)
        for layer in found.layers:
            np.testing.assert_allclose(found.direction(layer).numpy(), expected[layer], rtol=0, atol=1e-5)
        directions.append(expected)
    assert np.abs(np.diff(np.stack(directions), axis=0)).max(axis=(1, 2)).min() > 0.01  # no two draws are alike
    assert statistics.drawn is not None
    for chosen in ([0], [3, 1]):
        found_of = fitter.fit(statistics.drawn.of_folds(chosen, statistics.at(WINDOW)))
        expected = medians(own, np.isin(folds, chosen))
        for layer, direction in found_of.items():
            np.testing.assert_allclose(direction.numpy(), expected[layer], rtol=0, atol=1e-5)


def test_draws_leave_the_judges_labels_alone(many: list[Item], statistics: ActivationStatistics, tmp_path) -> None:
    without = read(many, None, tmp_path)
    for window in ((-4, -1), (-8, 3)):
        one, other = (s.at(window).raw for s in (statistics, without))
        assert one is not None and other is not None
        for index in range(2):
            rows = [
                sorted(zip(traces, labels, means.sum(1).round(decimals=3).tolist(), strict=True))
                for means, labels, traces in (one.read(index), other.read(index))
            ]
            assert [row[:2] for row in rows[0]] == [row[:2] for row in rows[1]]
            np.testing.assert_allclose([row[2] for row in rows[0]], [row[2] for row in rows[1]], atol=2e-3)


def test_other_draws_go_to_other_shards(many: list[Item], draws: Draws, tmp_path: Path) -> None:
    """A folder that is used again loses nothing of what was read before."""
    first = read(many, draws, tmp_path)
    labels = first.drawn.labelled("over-01", first.at(WINDOW)).raw.read(0)[1]  # type: ignore[union-attr]
    spans = spans_of(many, EXTRACTOR, LABEL, WINDOW)
    read(many, draw(spans, NAMES, label=LABEL, window=WINDOW, folds=FOLDS, seed=2), tmp_path)
    assert first.drawn.labelled("over-01", first.at(WINDOW)).raw.read(0)[1] == labels  # type: ignore[union-attr]


def test_windows_that_were_read_without_the_draw_are_told(statistics: ActivationStatistics) -> None:
    raw = statistics.at((-8, 3)).raw
    assert raw is not None
    for asked in ({"draw": "over-01"}, {"folds": (0,)}):
        with pytest.raises(SteerkitError, match=r"raw_-8..3_.*: not a file of raw windows .*; delete it and run again"):
            replace(raw, **asked).read(0)
