"""Units on disk: exact float32, read trace by trace; top contexts against a brute-force search."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steerkit.errors import SteerkitError
from steerkit.models.units import Unit
from steerkit.units import store as store_module
from steerkit.units.contexts import Context, TopContexts
from steerkit.units.store import Shard, UnitStore

UNITS = tuple(Unit(layer, part) for layer in range(2) for part in ("q", "up", "down"))
NORMS = np.array([0.5, 2, 1, 3, 0.25, 1.5], np.float32)


def numbers(count: int, seed: int = 0, *, coarse: bool = False) -> dict[str, np.ndarray]:
    """Trace → [T, 6]; with `coarse` many are equal."""
    rng = np.random.default_rng(seed)
    found = {}
    for number in range(count):
        own = rng.standard_normal((rng.integers(1, 30), 6)) * 3
        found[f"t{number}"] = (np.round(own) if coarse else own).astype(np.float32)
    return found


def saved(folder: Path, values: dict[str, np.ndarray], each: int = 3) -> UnitStore:
    names = list(values)
    for number, begin in enumerate(range(0, len(names), each)):
        own = names[begin : begin + each]
        lengths = tuple(len(values[name]) for name in own)
        rows = np.concatenate([values[name] for name in own])
        Shard(UNITS, NORMS, tuple(own), lengths, rows).save(folder / f"{number:05}.safetensors")
    return UnitStore.at(folder)


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    values = numbers(10)
    values["t3"][0, 0] = 1e6  # beyond half precision
    store = saved(tmp_path, values)
    assert store.traces == tuple(values) and store.units == UNITS and len(store.files) == 4
    for name, own in values.items():
        assert store.length(name) == len(own)
        np.testing.assert_array_equal(store.of(name, "raw"), own)
        np.testing.assert_array_equal(store.of(name), own * NORMS)
        assert store.of(name).dtype == np.float32


@pytest.mark.parametrize("block", [1, 6 * 40, 2**24])
def test_blocks_are_all_rows_of_whole_traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(store_module, "BLOCK", block)
    values = numbers(10)
    store = saved(tmp_path, values)
    blocks = list(store.blocks("raw"))
    assert [name for names, _ in blocks for name in names] == list(values)
    assert len(blocks) == {1: 10, 2**24: 4}.get(block, len(blocks))
    for names, rows in blocks:
        assert len(names) == 1 or rows.size <= block
        np.testing.assert_array_equal(rows, np.concatenate([values[name] for name in names]))


def test_the_same_values_are_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        saved(tmp_path / name, numbers(2))
    assert (tmp_path / "a/00000.safetensors").read_bytes() == (tmp_path / "b/00000.safetensors").read_bytes()


def test_files_that_are_none_or_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    store = saved(tmp_path, numbers(4))
    with pytest.raises(SteerkitError, match="no numbers are kept of trace 'other'"):
        store.of("other")
    with pytest.raises(SteerkitError, match="has trace 't0', which another file has, too"):
        UnitStore([store.files[0], store.files[0]])
    other = tmp_path / "other"
    Shard(UNITS[:2], NORMS[:2], ("x",), (1,), np.zeros((1, 2), np.float32)).save(other)
    with pytest.raises(SteerkitError, match="has other units than"):
        UnitStore([store.files[0], other])
    (tmp_path / "broken").write_bytes(store.files[0].read_bytes()[:100])
    with pytest.raises(SteerkitError, match="broken: is not a file of units' numbers"):
        UnitStore([tmp_path / "broken"])
    with pytest.raises(SteerkitError, match="there is no file to read"):
        UnitStore.at(tmp_path / "nowhere")


# --- top contexts -----------------------------------------------------------------------------------------------------


def by_search(values: dict[str, np.ndarray], unit: int, sign: int, first: int, s: dict[str, Any]) -> list[Context]:
    """Every token of every trace, sorted."""
    found = []
    for name, own in values.items():
        places = [(-abs(own[t, unit]), name, t) for t in range(first, len(own)) if sign * own[t, unit] > s["least"]]
        found += sorted(places)[: s["per_trace"]]
    contexts = []
    for _, name, at in sorted(found)[: s["count"]]:
        begin, end = max(at - s["width"], 0), at + s["width"] + 1
        window = tuple(float(v) for v in values[name][begin:end, unit])
        contexts.append(Context(name, at, float(values[name][at, unit]), begin, window))
    return contexts


SETTINGS = [
    {"count": 5, "width": 2, "per_trace": 2, "least": 0.01},
    {"count": 12, "width": 0, "per_trace": 3, "least": 2.0},
    {"count": 400, "width": 40, "per_trace": 99, "least": 0.0},
    {"count": 1, "width": 3, "per_trace": 1, "least": 0.0},
]


@pytest.mark.parametrize("waiting", [0, 10**6])
@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("settings", SETTINGS)
def test_contexts_are_those_of_a_search_in_any_order(
    settings: dict[str, Any], coarse: bool, waiting: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steerkit.units.contexts.WAITING", waiting)
    values = numbers(25, coarse=coarse)
    names = list(values)
    np.random.default_rng(1).shuffle(names)
    whole, halves = TopContexts(**settings), [TopContexts(**settings) for _ in range(3)]
    for number, name in enumerate(names):
        whole.add(name, values[name], 1)
        halves[number % 3].add(name, values[name], 1)
    for other in (pickle.loads(pickle.dumps(halves[2])), halves[0]):
        halves[1].merge(other)
    again = TopContexts.from_json(json.loads(json.dumps(whole.to_json())))
    for unit in range(6):
        for sign in (1, -1):
            wanted = by_search(values, unit, sign, 1, settings)
            assert whole.found(unit, sign) == wanted
            assert halves[1].found(unit, sign) == wanted
            assert again.found(unit, sign) == wanted


def test_a_context_is_in_its_window() -> None:
    values = numbers(5)
    top = TopContexts(8, 3, 4, 0.0)
    for name, own in values.items():
        top.add(name, own)
    for context in top.found(2, -1):
        assert context.value < 0 and context.values[context.at - context.first] == context.value


def test_kept_contexts_go_on_with_more_traces() -> None:
    values, settings = numbers(12, coarse=True), SETTINGS[0]
    top = TopContexts(**settings)
    for number, (name, own) in enumerate(values.items()):
        top.add(name, own)
        if number == 5:
            top = TopContexts.from_json(top.to_json())
    assert top.found(1, 1) == by_search(values, 1, 1, 0, settings)


def test_contexts_that_do_not_fit_are_refused() -> None:
    top = TopContexts(3, 1, 1, 0.0)
    assert top.found(0, 1) == []
    top.add("a", np.ones((4, 2), np.float32))
    with pytest.raises(SteerkitError, match="trace 'a' has been added before"):
        top.add("a", np.ones((4, 2), np.float32))
    with pytest.raises(SteerkitError, match="3 units, where those before had 2"):
        top.add("b", np.ones((4, 3), np.float32))
    with pytest.raises(SteerkitError, match="other settings"):
        top.merge(TopContexts(4, 1, 1, 0.0))
    other = TopContexts(3, 1, 1, 0.0)
    other.add("a", np.ones((4, 2), np.float32))
    with pytest.raises(SteerkitError, match="trace 'a' is in both"):
        top.merge(other)
    with pytest.raises(SteerkitError, match="1 or more"):
        TopContexts(0, 1, 1, 0.0)
