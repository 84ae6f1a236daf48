"""Statistics on their own: files, merging, and errors in words."""

from __future__ import annotations

import pytest
import torch
from steerkit_plugins.extractors.offset_window import OffsetWindow
from tiny import LABELS, tiny

from steerkit.data.statistics import ActivationStatistics
from steerkit.data.windows import groups_of
from steerkit.errors import SteerkitError
from steerkit.extraction.extract import extract


@pytest.fixture(scope="module")
def statistics(items) -> ActivationStatistics:
    extractor = OffsetWindow(windows=((-4, -1),), sweep=(-8, 3))
    return extract(tiny("llama"), items, extractor, LABELS, needs={"means", "squares"})


def test_saved_and_loaded_they_are_the_same(statistics, tmp_path) -> None:
    marked = ActivationStatistics(statistics.windows, {"model": "llama", "done": ["t1", "t2"]})
    marked.save(tmp_path / "s.safetensors")
    found = ActivationStatistics.load(tmp_path / "s.safetensors")
    assert found.meta == marked.meta
    assert list(found.windows) == [(-4, -1), (-8, 3)]
    for window, before in statistics.windows.items():
        after = found.windows[window]
        for name in ("sums", "squares", "counts", "tokens", "norms"):
            assert torch.equal(getattr(before, name), getattr(after, name))
            assert getattr(after, name).dtype == torch.float64
        for name in ("range", "window", "layers", "labels", "dropped", "traces", "raw"):
            assert getattr(before, name) == getattr(after, name)


def test_sums_alone_stay_without_squares(items, tmp_path) -> None:
    plain = extract(tiny("llama"), items, OffsetWindow(windows=((-4, -1),)), LABELS)
    plain.save(tmp_path / "s.safetensors")
    with pytest.raises(SteerkitError, match="sums of squares were not collected: declare `needs"):
        ActivationStatistics.load(tmp_path / "s.safetensors").at((-4, -1)).mean_square("all")


def test_a_file_that_is_none(tmp_path) -> None:
    (tmp_path / "s.safetensors").write_bytes(b"nonsense")
    with pytest.raises(SteerkitError, match=r"s\.safetensors: not a statistics file .* delete it and run again"):
        ActivationStatistics.load(tmp_path / "s.safetensors")
    with pytest.raises(SteerkitError, match="not a statistics file"):
        ActivationStatistics.load(tmp_path / "none.safetensors")


def test_a_window_that_was_not_extracted(statistics) -> None:
    with pytest.raises(SteerkitError, match=r"window -5\.\.-1 was not extracted; there is -4\.\.-1, -8\.\.3"):
        statistics.at((-5, -1))
    with pytest.raises(SteerkitError, match=r"window -9\.\.-1 was not extracted"):
        statistics.at((-9, -1), (-8, 3))
    assert statistics.at((-5, -1), (-8, 3)).window == (-5, -1)


def test_an_unknown_group_and_an_empty_one(statistics, items) -> None:
    with pytest.raises(SteerkitError, match=r"no group 'backtraking'; did you mean 'backtracking'?"):
        statistics.at((-4, -1)).mean("backtraking")
    far = extract(tiny("llama"), items, OffsetWindow(windows=((-90, -80),)), LABELS).at((-90, -80))
    message = rf"no span of group 'backtracking' has a whole window -90\.\.-80 in any of {len(items)} traces"
    with pytest.raises(SteerkitError, match=message):
        far.mean("backtracking")
    assert sum(far.dropped.values()) == sum(len(item.spans) for item in items)


def test_what_does_not_fit_is_not_added(statistics, items) -> None:
    lm = tiny("llama")
    with pytest.raises(SteerkitError, match="statistics of different windows can't be added"):
        statistics + extract(lm, items, OffsetWindow(windows=((-4, -1),)), LABELS)
    sweep = OffsetWindow(windows=((-4, -1),), sweep=(-8, 3))
    with pytest.raises(SteerkitError, match="differ in layers, labels or width: not addable"):
        statistics + extract(lm, items, sweep, LABELS, layers=[0])
    with pytest.raises(SteerkitError, match="differ in layers, labels or width: not addable"):
        statistics + extract(lm, items, sweep, ("backtracking",))


def test_groups_add_up(statistics) -> None:
    """A label's spans and the rest are all spans; names stand in the order of the sums' axis."""
    assert groups_of(["a"]) == ["all", "a", "rest:a", "with:a"]
    for window in statistics.windows.values():
        for label in LABELS:
            parts = [window.sums[1, window.group(name)] for name in (label, f"rest:{label}")]
            torch.testing.assert_close(parts[0] + parts[1], window.sums[1, window.group("all")])
            assert window.count(label, "span") + window.count(f"rest:{label}", "span") == window.count("all", "span")
            assert window.count(label) <= window.count(f"with:{label}")
