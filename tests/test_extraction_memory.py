"""Extraction in bounded memory: batches that don't fit are halved, raw windows leave in shards."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace

import pytest
import torch
from steerkit_plugins.extractors.offset_window import OffsetWindow
from tiny import LABELS, build, random_items

from steerkit.errors import SteerkitError
from steerkit.extraction import batching, raw_windows
from steerkit.extraction.batching import Queue, batches, comfortable_tokens, groups
from steerkit.extraction.extract import extract, read_layer
from steerkit.models.memory import out_of_memory

WINDOW = (-4, -1)
EXTRACTOR = OffsetWindow(windows=(WINDOW,), sweep=(-8, 3))
MESSAGES = {
    "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "cpu": lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
    "python": lambda: MemoryError(),
}


class Small:
    """A model whose block 2 runs out of memory on more than `tokens` padded tokens; it counts its forwards."""

    def __init__(self, tokens: int, kind: str = "cuda") -> None:
        self.lm, self.shapes = build("llama"), list[tuple[int, ...]]()

        def refuse(module, args) -> None:
            self.shapes.append(tuple(args[0].shape[:2]))
            if args[0].shape[0] * args[0].shape[1] > tokens:
                raise MESSAGES[kind]()

        self.lm.blocks[2].register_forward_pre_hook(refuse)


def same(one, other) -> None:
    for window, a in one.windows.items():
        b = other.windows[window]
        for name in ("sums", "tokens", "norms"):
            torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=1e-5, atol=1e-5)
        assert torch.equal(a.counts, b.counts)
        assert (a.traces, a.dropped) == (b.traces, b.dropped)


@pytest.mark.parametrize("kind", sorted(MESSAGES))
def test_a_batch_that_does_not_fit_is_halved_and_said(items, kind, caplog) -> None:
    small = Small(130, kind)
    seen: list[tuple[int, int]] = []
    found = extract(small.lm, items, EXTRACTOR, LABELS, on_batch=lambda *numbers: seen.append(numbers))
    assert re.search(r"llama: out of memory on \d+ texts of \d+ tokens; at most \d+ tokens a batch go on", caplog.text)
    same(found, extract(build("llama"), items, EXTRACTOR, LABELS, batch_tokens=1))
    refused = [shape for shape in small.shapes if shape[0] * shape[1] > 130]
    assert 1 <= len(refused) <= 2  # the batches after it are smaller from the start
    assert seen[-1][0] == seen[-1][1] == len(small.shapes) - len(refused)


def test_a_layer_is_read_in_smaller_batches_too(items, caplog) -> None:
    small = Small(130)
    found = list(read_layer(small.lm, items, 3))
    assert "out of memory" in caplog.text
    assert sorted(i.trace.id for batch, _ in found for i in batch) == sorted(i.trace.id for i in items)
    for batch, hidden in found:
        alone = [next(read_layer(build("llama"), [item], 3))[1][0] for item in batch]
        for row, expected in zip(hidden, alone, strict=True):
            torch.testing.assert_close(row[: len(expected)], expected, rtol=1e-4, atol=1e-5)


def test_a_trace_that_does_not_fit_alone_is_named(items) -> None:
    longest = max(items, key=lambda item: len(item.ids))
    message = rf"memory ran out on trace '{longest.trace.id}' alone, {len(longest.ids)} tokens: cut long texts"
    with pytest.raises(SteerkitError, match=message), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        extract(Small(len(longest.ids) - 1).lm, items, EXTRACTOR, LABELS)


def test_other_errors_are_no_matter_of_memory(items) -> None:
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not out_of_memory(SteerkitError("can't allocate memory"))
    queue = Queue(build("llama"), items, 100)
    with pytest.raises(RuntimeError, match="shapes"), queue.next():
        raise RuntimeError("shapes")


def test_an_allocation_that_no_machine_can_serve_is_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**58, dtype=torch.uint8)
    assert out_of_memory(caught.value)


@pytest.mark.parametrize("count", [1, 2, 7, 40])
@pytest.mark.parametrize("tokens", [1, 90, 400, 10_000])
def test_no_cut_of_the_sorted_traces_computes_less(count, tokens) -> None:
    """Brute force over all cuts for few traces, and any single trace or greedy cut for many."""
    some = random_items(count, seed=count)
    lengths = sorted(len(item.ids) for item in some)

    def cost(cut: list[list[int]]) -> int:
        return sum(len(part) * max(part) + batching.CALL_TOKENS for part in cut)

    def cuts(rest: list[int]) -> list[list[list[int]]]:
        if not rest:
            return [[]]
        fitting = [n for n in range(1, len(rest) + 1) if n == 1 or n * rest[n - 1] <= tokens]
        return [[rest[:n], *others] for n in fitting for others in cuts(rest[n:])]

    found = cost([[len(item.ids) for item in batch] for batch in batches(some, tokens)])
    assert found <= cost([[length] for length in lengths])
    if count <= 7:
        assert found == min(cost(cut) for cut in cuts(lengths))


def test_real_lengths_pay_for_next_to_no_padding() -> None:
    draw = torch.Generator().manual_seed(0)
    lengths = ((torch.randn(300, generator=draw) * 0.5).exp() * 450 + 100).int().tolist()
    some = [replace(item, ids=(3,) * n) for item, n in zip(random_items(300, longest=13), lengths, strict=True)]
    plan = batches(some)
    assert sum(len(b) * max(len(i.ids) for i in b) for b in plan) <= 1.03 * sum(len(i.ids) for i in some)
    assert len(plan) < 100


def test_a_cpu_gets_no_more_tokens_than_its_caches_take() -> None:
    lm = build("llama")
    assert comfortable_tokens(lm, 50) == 50
    assert comfortable_tokens(lm, 10**9) == batching.CACHE_BYTES // (4 * 24)


def test_groups_hold_the_batches_in_order_and_no_more_cells_than_asked(items) -> None:
    plan = batches(items, 1)
    for most in (0, 5, 14, 1000):
        found = groups(plan, most)
        assert [batch for group in found for batch in group] == plan
        for group in found:
            cells = sum(max(len({s.label for s in item.spans}), 1) for batch in group for item in batch)
            assert len(group) == 1 or cells <= most
    assert len(groups(plan, 0)) == len(plan) > len(groups(plan, 14)) > len(groups(plan, 1000)) == 1


def test_raw_windows_leave_in_shards(llama, items, tmp_path, monkeypatch) -> None:
    def run(folder):
        extractor = OffsetWindow(windows=(WINDOW,))
        return extract(llama, items, extractor, LABELS, needs={"raw"}, raw_folder=folder, batch_tokens=1).at(WINDOW)

    whole = run(tmp_path / "whole").raw
    monkeypatch.setattr(raw_windows, "SHARD_BYTES", 2000)
    shards = run(tmp_path / "shards").raw
    assert len(whole.files) == 1 < len(shards.files)
    assert sorted((tmp_path / "shards").iterdir()) == sorted(shards.files)
    for layer in range(llama.depth):
        (a, *labels), (b, *others) = whole.read(layer), shards.read(layer)
        assert torch.equal(a, b)
        assert labels == others


def test_a_batch_has_no_more_cells_than_asked(items) -> None:
    for most in (1, 3, 6, 100):
        plan = batches(items, 10**6, most)
        assert sorted(i.trace.id for batch in plan for i in batch) == sorted(i.trace.id for i in items)
        cells = [sum(max(len({s.label for s in item.spans}), 1) for item in batch) for batch in plan]
        assert all(len(batch) == 1 or n <= most for batch, n in zip(plan, cells, strict=True))
        assert most < 6 or max(map(len, plan)) > 1
