"""How an extraction runs: only as deep as asked, resumable, and loud about activations that are not finite."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest
import torch
from steerkit_plugins.extractors.offset_window import OffsetWindow
from tiny import ARCHITECTURES, LABELS, UNUSED, build, tiny

from steerkit.data.statistics import ActivationStatistics
from steerkit.data.trace import Item
from steerkit.errors import SteerkitError
from steerkit.extraction.collector import Collector
from steerkit.extraction.extract import extract
from steerkit.models.language_model import LanguageModel

WINDOW = (-4, -1)
EXTRACTOR = OffsetWindow(windows=(WINDOW,))


def hooks_on(lm: LanguageModel) -> int:
    modules = list(lm.model.modules())
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_layer_equals_the_full_extraction_and_runs_no_deeper(architecture: str, items) -> None:
    lm = tiny(architecture)
    ran: list[int] = []
    handles = [
        block.register_forward_hook(lambda *_, layer=layer: ran.append(layer)) for layer, block in enumerate(lm.blocks)
    ]
    try:
        shallow = extract(lm, items, EXTRACTOR, LABELS, layers=[0], batch_tokens=10_000).at(WINDOW)
    finally:
        for handle in handles:
            handle.remove()
    full = extract(lm, items, EXTRACTOR, LABELS, batch_tokens=10_000).at(WINDOW)
    assert set(ran) == {0}
    assert shallow.layers == (0,)
    assert full.layers == tuple(range(lm.depth))
    assert torch.equal(shallow.sums, full.sums[:, :, :1])
    assert torch.equal(shallow.tokens, full.tokens[:1])


def test_the_head_does_not_run(items) -> None:
    lm = build("llama")
    lm.model.lm_head.register_forward_hook(lambda *_: pytest.fail("the LM head ran"))
    extract(lm, items, EXTRACTOR, LABELS)


def test_layers_are_sorted_and_listed_once(llama, items) -> None:
    assert extract(llama, items, EXTRACTOR, LABELS, layers=[2, 0, 2]).at(WINDOW).layers == (0, 2)


def test_hooks_are_gone_also_after_an_error(items) -> None:
    lm = build("llama")
    extract(lm, items, EXTRACTOR, LABELS)
    with torch.no_grad():
        lm.blocks[1].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(SteerkitError):
        extract(lm, items, EXTRACTOR, LABELS)
    assert hooks_on(lm) == 0


@pytest.mark.parametrize("place", [2, 15])  # in the prompt, in the trace
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_non_finite_activation_is_named_by_layer_and_trace(items, value, place) -> None:
    lm = build("llama")
    with torch.no_grad():
        lm.model.model.embed_tokens.weight[UNUSED, 0] = value
    extract(lm, items, EXTRACTOR, LABELS)
    guilty = items[4]
    ids = [*guilty.ids[:place], UNUSED, *guilty.ids[place + 1 :]]
    mixed = [*items[:4], Item(guilty.trace, guilty.spans, ids), *items[5:]]
    # eager attention spreads it over the row (0 × inf), so the token isn't told apart; layer and trace are
    message = rf"llama: the activation of layer 0 at token \d+ of trace '{guilty.trace.id}' is not finite"
    with pytest.raises(SteerkitError, match=message):
        extract(lm, mixed, EXTRACTOR, LABELS, batch_tokens=10_000)


def test_a_layer_out_of_range(llama, items) -> None:
    with pytest.raises(SteerkitError, match="layer: 4 is not a block of llama: it has 4, numbered 0 to 3"):
        extract(llama, items, EXTRACTOR, LABELS, layers=[4])
    with pytest.raises(SteerkitError, match="-1 is not a block"):
        extract(llama, items, EXTRACTOR, LABELS, layers=[-1])


def test_no_traces(llama) -> None:
    with pytest.raises(SteerkitError, match="there is no trace to extract from"):
        extract(llama, [], EXTRACTOR, LABELS)


def test_an_interrupted_extraction_goes_on_where_it_stopped(llama, items) -> None:
    class Killed(Exception):
        pass

    kept: list[tuple[ActivationStatistics, list[str]]] = []
    seen: list[tuple[int, int]] = []

    def stop(number: int, count: int) -> None:
        seen.append((number, count))
        if number == 8:
            raise Killed

    def keep(statistics: ActivationStatistics, traces: list[str]) -> None:
        kept.append((statistics, list(traces)))

    with pytest.raises(Killed):
        extract(llama, items, EXTRACTOR, LABELS, batch_tokens=1, on_batch=stop, on_part=keep)
    assert seen == [(number, len(items)) for number in range(1, 9)]
    before, traces = kept[-1]
    assert 1 <= len(traces) <= 8
    kept.clear()
    resumed = extract(llama, items, EXTRACTOR, LABELS, batch_tokens=1, before=before, skip=traces, on_part=keep)
    assert all(set(more).isdisjoint(traces) for _, more in kept)
    whole = extract(llama, items, EXTRACTOR, LABELS, batch_tokens=1)
    one, other = resumed.at(WINDOW), whole.at(WINDOW)
    assert torch.equal(one.sums, other.sums)  # added in the same order
    torch.testing.assert_close(one.tokens, other.tokens, rtol=1e-12, atol=1e-12)
    assert torch.equal(one.counts, other.counts)
    assert (one.traces, one.dropped) == (other.traces, other.dropped)


def test_no_batch_is_longer_than_asked_and_each_trace_is_in_one(llama, items) -> None:
    from steerkit.extraction.batching import batches

    found = batches(items, 120)
    assert sorted(i.trace.id for batch in found for i in batch) == sorted(i.trace.id for i in items)
    assert all(len(batch) == 1 or len(batch) * max(len(i.ids) for i in batch) <= 120 for batch in found)
    assert any(len(batch) > 1 for batch in found)
    assert batches(items[::-1], 120) == found


@pytest.mark.parametrize(("inside", "share"), [("_spread", -1.0), ("_stacked", 1e9)])
def test_an_interrupt_while_sums_change_leaves_no_half_sums(
    llama, items, monkeypatch: pytest.MonkeyPatch, inside: str, share: float
) -> None:
    """Ctrl-C within a commit, or while what there is so far is handed over: going on gives the whole sums."""
    options = {"labels": LABELS, "batch_tokens": 60}
    whole = extract(llama, items, EXTRACTOR, **options).at(WINDOW)
    plain = getattr(Collector, inside)
    stopped = 0
    for moment in (1, 2, 3, 5, 9, 14):
        calls = count(1)
        parts: list[tuple[ActivationStatistics | None, list[str]]] = [(None, [])]

        def stop(*args: Any, calls: Any = calls, moment: int = moment) -> Any:
            found = plain(*args)
            if next(calls) == moment:
                raise KeyboardInterrupt
            return found

        def keep(so_far: ActivationStatistics, traces: list[str], parts: Any = parts) -> None:
            parts.append((so_far, list(traces)))

        with monkeypatch.context() as patch:
            patch.setattr(Collector, inside, stop)
            patch.setattr("steerkit.extraction.extract.PART_SHARE", share)  # never, or always hands over
            try:
                extract(llama, items, EXTRACTOR, **options, on_part=keep)
            except KeyboardInterrupt:
                stopped += 1
        before, done = parts[-1]
        found = extract(llama, items, EXTRACTOR, **options, before=before, skip=done).at(WINDOW)
        assert torch.equal(found.counts, whole.counts), moment
        assert torch.allclose(found.sums, whole.sums, rtol=1e-9, atol=1e-9), moment
    assert stopped >= 2
