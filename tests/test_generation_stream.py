"""More rows than lines: rows that end make room, prompts are read once for the rows that share them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from steerkit_plugins.steerers.gaussian_noise import GaussianNoise
from steerkit_plugins.steerers.residual_add import ResidualAdd
from test_generation import PROMPTS, ends_early
from tiny import ARCHITECTURES, tiny

from steerkit.errors import SteerkitError
from steerkit.generation import capacity, prefill, stream
from steerkit.generation.capacity import best_batch_size
from steerkit.generation.line_cache import LineCache
from steerkit.generation.stream import GenerationRow, generate
from steerkit.interventions.steering import Edit
from steerkit.stats.noise import key_of

ADD, NOISE = ResidualAdd(), GaussianNoise()
NEW = 20


def grid(direction: torch.Tensor, depth: int) -> list[GenerationRow]:
    """Every condition on every prompt, two samples each, in the order of conditions."""
    edits = [
        None,
        Edit(ADD, 1, 3.0, direction),
        Edit(ADD, 1, -2.0, direction),
        Edit(ADD, depth - 1, 4.0, direction, "prompt"),
        Edit(ADD, 0, 4.0, direction, "generated"),
        Edit(NOISE, 1, 4.0, key=7),
        Edit(ADD, 1, 0.0, direction),
    ]
    return [
        GenerationRow(prompt, key_of(which, sample), (edit,) if edit else ())
        for edit in edits
        for which, prompt in enumerate(PROMPTS)
        for sample in range(2)
    ]


@pytest.mark.parametrize(("architecture", "temperature"), [("llama", 0.0), *((name, 1.3) for name in ARCHITECTURES)])
def test_a_stream_of_rows_equals_single_rows(architecture: str, temperature: float, direction) -> None:
    lm = ends_early(tiny(architecture), PROMPTS, NEW)
    rows = grid(direction, lm.depth)
    alone = [generate(lm, [row], max_new_tokens=NEW, temperature=temperature)[0] for row in rows]
    for size in (5, 16, 64):
        together = generate(lm, rows, max_new_tokens=NEW, temperature=temperature, batch_size=size)
        assert [(t.ids, t.finished) for t in together] == [(a.ids, a.finished) for a in alone], size


def test_margins_follow_their_rows(llama, direction) -> None:
    rows = grid(direction, llama.depth)
    alone = [generate(llama, [row], max_new_tokens=6, temperature=1.0, margins=True)[0] for row in rows]
    together = generate(llama, rows, max_new_tokens=6, temperature=1.0, margins=True, batch_size=9)
    for one, other in zip(alone, together, strict=True):
        assert one.margins == pytest.approx(other.margins, abs=1e-4)


def test_progress_counts_ended_rows(direction) -> None:
    lm = ends_early(tiny("llama"), PROMPTS, NEW)
    rows, seen = grid(direction, lm.depth), []
    generate(lm, rows, max_new_tokens=NEW, temperature=1.0, batch_size=8, progress=seen.append)
    assert seen == sorted(seen) and len(set(seen)) > 5
    assert seen[-1] == len(rows)


def count_tokens(lm, rows, batch_size=None) -> Counter[int]:
    """Prompt tokens that each block computes."""
    seen: Counter[int] = Counter()

    def hook(layer: int):
        def count(module, args, output) -> None:
            if output.shape[1] > 1 and module.forward.__qualname__.find("_done") < 0:
                seen[layer] += output.shape[0] * output.shape[1]

        return count

    handles = [block.register_forward_hook(hook(layer)) for layer, block in enumerate(lm.blocks)]
    try:
        generate(lm, rows, max_new_tokens=2, temperature=0, batch_size=batch_size)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def test_prompts_are_read_once_as_far_as_no_edit_touches_them(llama, direction) -> None:
    one = [GenerationRow(PROMPTS[0], 0, (Edit(ADD, 1, float(s + 1), direction, "generated"),)) for s in range(6)]
    everywhere = [replace(row, edits=(replace(row.edits[0], tokens="all"),)) for row in one]
    generate(llama, everywhere[:1] * 2, max_new_tokens=1, temperature=0)
    assert set(count_tokens(llama, one).values()) == {len(PROMPTS[0])}
    prefill._trusted.setdefault(llama.decoder, {})[1] = True
    seen, length = count_tokens(llama, everywhere), len(PROMPTS[0])
    assert seen == {0: length, 1: length, 2: 6 * length, 3: 6 * length}


def test_a_model_whose_blocks_share_more_than_hidden_states_reads_prompts_in_full(direction) -> None:
    lm = ends_early(tiny("llama"), PROMPTS, NEW)
    first, last, kept = lm.blocks[0].forward, lm.blocks[3].forward, {}

    def keep(hidden, *args, **kwargs):
        kept["hidden"] = hidden
        return first(hidden, *args, **kwargs)

    lm.blocks[0].forward = keep
    lm.blocks[3].forward = lambda hidden, *args, **kwargs: last(hidden, *args, **kwargs) + kept.pop("hidden")
    rows = [GenerationRow(p, 0, (Edit(ADD, 1, float(s), direction),)) for p in PROMPTS for s in (1, 2, 3)]
    plain = [generate(lm, [row], max_new_tokens=NEW, temperature=0)[0].ids for row in rows]
    assert [text.ids for text in generate(lm, rows, max_new_tokens=NEW, temperature=0)] == plain
    assert prefill._trusted[lm.decoder] == {1: False}


def test_columns_move_back_and_are_cut_off() -> None:
    """Many short rows after a long one: the buffers stay as long as the longest row."""
    lm, new = tiny("llama"), 40
    rows = [GenerationRow(PROMPTS[i % 5], key_of(i)) for i in range(60)]
    widths: list[int] = []
    step = LineCache.step

    def watch(self: LineCache) -> torch.Tensor:
        mask = step(self)
        widths.append(mask.shape[1])
        assert self.hf.layers[0].room[0].shape[2] == self.capacity
        return mask

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LineCache, "step", watch)
        texts = generate(lm, rows, max_new_tokens=new, temperature=1.0, batch_size=6)
    assert len(widths) > 200  # many times the buffers' length
    assert max(widths) <= 5 + new + 16
    assert [t.ids for t in texts] == [generate(lm, [row], max_new_tokens=new, temperature=1.0)[0].ids for row in rows]


def test_a_long_row_that_ended_keeps_no_columns() -> None:
    """It began first and ended alone; the others, which nobody waits for, go on until the buffers are full."""
    lm, new, slack = tiny("llama"), 64, 17
    prompt = PROMPTS[0]
    end = lm.config.vocab_size - 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "end_ids", lambda lm: [-1])
        rows = [GenerationRow(prompt, key_of(number)) for number in range(1200)]
        texts = generate(lm, rows, max_new_tokens=new, temperature=1.5)
        ends = [text.ids.index(end) if end in text.ids else new for text in texts]
        long = [row for row, at in zip(rows, ends, strict=True) if at == new][:8]
        middle = [row for row, at in zip(rows, ends, strict=True) if slack + 3 < at < new - slack][:7]
        assert (len(long), len(middle)) == (8, 7)
        patch.setattr(stream, "end_ids", lambda lm: [end])
        chosen = [long[0], *middle, *long[1:]]  # all others' lines are taken over while the first one runs
        together = generate(lm, chosen, max_new_tokens=new, temperature=1.5, batch_size=8)
        alone = [generate(lm, [row], max_new_tokens=new, temperature=1.5)[0] for row in chosen]
    assert [text.ids for text in together] == [text.ids for text in alone]


class Small:
    """A device on which more than some rows do not fit."""

    def __init__(self, lm, most: int) -> None:
        self.most, self.sizes = most, []
        lm.blocks[2].register_forward_pre_hook(self.check)

    def check(self, module, args) -> None:
        self.sizes.append(len(args[0]))
        if len(args[0]) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_out_of_memory_halves_the_batch_and_keeps_what_had_ended(direction, caplog) -> None:
    lm = ends_early(tiny("llama"), PROMPTS, NEW)
    rows = grid(direction, lm.depth)
    expected = [text.ids for text in generate(lm, rows, max_new_tokens=NEW, temperature=1.0)]
    small = Small(lm, 6)
    found = generate(lm, rows, max_new_tokens=NEW, temperature=1.0, batch_size=32)
    assert [text.ids for text in found] == expected
    assert max(small.sizes) > 6 and small.sizes[-1] <= 4
    assert "llama: out of memory; " in caplog.text and " rows go on, 4 at a time" in caplog.text


def test_not_even_one_row(direction) -> None:
    lm = ends_early(tiny("llama"), PROMPTS, NEW)
    Small(lm, 0)
    with pytest.raises(SteerkitError, match="out of memory with a single row: use fewer max_new_tokens, bf16"):
        generate(lm, grid(direction, lm.depth), max_new_tokens=NEW, temperature=1.0, batch_size=8)


def test_another_error_is_not_taken_for_it(llama) -> None:
    def fail(module, args):
        raise IndexError("of the model's own")

    handle = llama.blocks[1].register_forward_pre_hook(fail)
    try:
        with pytest.raises(IndexError, match="of the model's own"):
            generate(llama, [GenerationRow([9], 0)], max_new_tokens=2, temperature=0)
    finally:
        handle.remove()


def test_a_batch_size_is_found_by_memory_and_speed(llama, monkeypatch) -> None:
    assert 1 <= best_batch_size(llama, PROMPTS[0], 10, most=3) <= 3
    monkeypatch.setattr(capacity, "_step_seconds", lambda lm, prompt, new, rows: 1.0 + max(0, rows - 64))
    assert best_batch_size(llama, PROMPTS[0], 10, most=1000) == 64
    monkeypatch.setattr(capacity, "free_bytes", lambda device: 10 * 1_000_000)
    few = best_batch_size(llama, [5] * 200, 40, most=1000)
    monkeypatch.setattr(capacity, "free_bytes", lambda device: 3 * 1_000_000)
    assert best_batch_size(llama, [5] * 200, 40, most=1000) < few < 64
    monkeypatch.setattr(capacity, "free_bytes", lambda device: 1000)
    with pytest.raises(SteerkitError, match="not even one row of 200 \\+ 40 tokens fits the free memory"):
        best_batch_size(llama, [5] * 200, 40, most=1000)
