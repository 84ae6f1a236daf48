"""Ablation of a LoRA's units, held against copies of the model without their B and a KL in numpy."""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from tiny import UNUSED, build
from tiny_training import hooks, same, weights
from zoo import breed

from steerkit.errors import SteerkitError
from steerkit.models.language_model import LanguageModel
from steerkit.models.lora_units import LoraGroup, lora_groups
from steerkit.models.units import Unit, units_in
from steerkit.units import continued
from steerkit.units.ablating import ablate
from steerkit.units.divergence import CountedText, divergences, log_probabilities, predicting
from steerkit.units.zeroing import zeroing

FAMILIES = ("llama", "qwen3", "gpt2", "phi3", "gemma3")
RANK2 = "llama"  # has two units a projection


@cache
def adapted(family: str) -> tuple[LanguageModel, tuple[LoraGroup, ...]]:
    """A model with a LoRA on all linear layers, whose effects are all there."""
    from peft import LoraConfig, get_peft_model

    lm = breed(family) if family == "phi3" else build(family)
    targets = {"gpt2": ["c_attn", "c_proj", "c_fc"]}.get(family, "all-linear")
    config = LoraConfig(r=2 if family == RANK2 else 1, lora_alpha=4, target_modules=targets, task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's
        model = get_peft_model(copy.deepcopy(lm.model), config).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    lm = LanguageModel(f"{family}+lora", model, lm.tokenizer, adapter=True)
    return lm, tuple(lora_groups(lm))


def texts(count: int = 3, seed: int = 0) -> list[CountedText]:
    """Random texts of several lengths; some of their tokens count."""
    draw = random.Random(seed)
    lengths = [draw.randint(6, 20) for _ in range(count)]
    return [
        CountedText(
            f"t{n}",
            [draw.randrange(3, UNUSED) for _ in range(length)],
            [i >= length // 3 and (i == length - 1 or draw.random() < 0.8) for i in range(length)],
        )
        for n, length in enumerate(lengths)
    ]


def some_sets(groups: Sequence[LoraGroup]) -> list[frozenset[Unit]]:
    """Singles, a block, a kind over all blocks, all, and none."""
    units = units_in(groups)
    last = max(unit.layer for unit in units)
    return [
        *(frozenset({unit}) for unit in units),
        frozenset(unit for unit in units if unit.layer == last),
        frozenset(unit for unit in units if unit.part == units[-1].part),
        frozenset(units),
        frozenset(),
    ]


class Slow:
    """A copy of a model whose units are taken out of B, and whole forwards of one row."""

    def __init__(self, lm: LanguageModel) -> None:
        self.lm = LanguageModel("copy", copy.deepcopy(lm.model), lm.tokenizer, adapter=True)
        self.columns = {
            unit: group.module.lora_B["default"].weight.data[:, unit.index]
            for group in lora_groups(self.lm)
            for unit in group.units
        }

    def logits(self, zeroed: frozenset[Unit], ids: Sequence[int]) -> np.ndarray:
        """[T, V] float64."""
        before = {unit: self.columns[unit].clone() for unit in zeroed}
        for unit in zeroed:
            self.columns[unit].zero_()
        with torch.no_grad():
            found = self.lm.model(input_ids=torch.tensor([list(ids)])).logits[0].double().numpy()
        for unit, column in before.items():
            self.columns[unit].copy_(column)
        return np.asarray(found)


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def by_hand(full: np.ndarray, other: np.ndarray, text: CountedText) -> tuple[float, float, float]:
    """KL(full ‖ other), KL(other ‖ full) and the other's cross-entropy, summed over counted tokens."""
    forth = back = ce = 0.0
    for t in range(len(text.ids) - 1):
        if text.counted[t + 1]:
            p, q = log_softmax(full[t]), log_softmax(other[t])
            forth += float((np.exp(p) * (p - q)).sum())
            back += float((np.exp(q) * (q - p)).sum())
            ce -= float(q[text.ids[t + 1]])
    return forth, back, ce


@pytest.mark.parametrize("family", FAMILIES)
def test_every_set_is_what_a_copy_without_its_weights_gives(family: str) -> None:
    lm, groups = adapted(family)
    own, sets = texts(), some_sets(groups)
    found = ablate(lm, groups, own, sets, with_noise=True)
    back = ablate(lm, groups, own, sets, direction="ablated || full")
    assert found.whole == () and found.counts.tolist() == [sum(text.counted[1:]) for text in own]
    slow = Slow(lm)
    for column, text in enumerate(own):
        full = slow.logits(frozenset(), text.ids)
        for row, zeroed in enumerate(sets):
            expected = by_hand(full, slow.logits(zeroed, text.ids), text)
            values = found.kl[row, column], back.kl[row, column], found.ce[row, column]
            assert values == pytest.approx(expected, rel=2e-4, abs=2e-5), (text.id, sorted(zeroed))
        assert found.full[column] == pytest.approx(by_hand(full, full, text)[2], rel=1e-5)
    assert (found.kl >= 0).all() and (found.kl[:-1].sum(1) > 0).all()
    assert (found.noise < 1e-6 * found.counts).all()
    assert (found.kl[-1] == 0).all() and (found.ce[-1] == found.full).all()  # nothing zeroed: exact


@pytest.mark.parametrize("family", FAMILIES)
def test_all_zeroed_is_the_base_bit_for_bit(family: str) -> None:
    lm, groups = adapted(family)
    ids = torch.randint(3, UNUSED, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), zeroing(groups) as zeroed:
        full = lm.model(input_ids=ids).logits
        zeroed.assign([frozenset(units_in(groups)), frozenset()])
        mixed = lm.model(input_ids=ids).logits
        zeroed.assign(())
        again = lm.model(input_ids=ids).logits
    with torch.no_grad(), lm.model.disable_adapter():
        base = lm.model(input_ids=ids).logits
    assert torch.equal(mixed[0], base[0]) and torch.equal(mixed[1], full[1]) and torch.equal(again, full)
    assert not torch.equal(base[0], full[0])


def test_a_block_is_its_units_jointly_whatever_their_order() -> None:
    lm, groups = adapted("qwen3")
    own = texts()
    block = [unit for unit in units_in(groups) if unit.layer == 1]
    assert len(block) == 7
    found = ablate(lm, groups, own, [frozenset(block)])
    backwards = ablate(lm, groups[::-1], own, [frozenset(reversed(block))])
    assert np.array_equal(backwards.kl, found.kl) and np.array_equal(backwards.ce, found.ce)
    slow, text = Slow(lm), own[0]
    full, without = slow.logits(frozenset(), text.ids), slow.logits(frozenset(block), text.ids)
    assert found.kl[0, 0] == pytest.approx(by_hand(full, without, text)[0], rel=2e-4)


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_rows_of_a_batch_are_each_what_they_are_alone(family: str) -> None:
    lm, groups = adapted(family)
    own, sets = texts(4), some_sets(groups)
    together = ablate(lm, groups, own, sets)
    one_text = [ablate(lm, groups, [text], sets) for text in own]  # no padding
    one_row = ablate(lm, groups, own, sets, batch_tokens=1)  # a forward a text and set
    narrow = ablate(lm, groups, own, sets, room=1)
    for other in (np.concatenate([found.kl for found in one_text], 1), one_row.kl, narrow.kl):
        assert together.kl == pytest.approx(other, rel=1e-4, abs=1e-6)
    assert together.ce == pytest.approx(one_row.ce, rel=1e-5)


def test_position_t_predicts_token_t_plus_one() -> None:
    found = predicting(
        [CountedText("a", (5, 6, 7, 8), (True, False, True, True)), CountedText("b", (5, 6), (False, True))]
    )
    assert found.tolist() == [[False, True, True, False], [True, False, False, False]]
    with pytest.raises(SteerkitError, match="'c': none of its tokens counts"):
        CountedText("c", (5, 6), (True, False))
    with pytest.raises(SteerkitError, match="3 tokens, and a mask of 1"):
        CountedText("d", (5, 6, 7), (True,))


def test_means_over_texts_and_over_tokens() -> None:
    lm, groups = adapted("qwen3")
    own = [
        CountedText("long", tuple(range(3, 43)), (True,) * 40),
        CountedText("short", tuple(range(50, 54)), (False, False, True, True)),
    ]
    found = ablate(lm, groups, own, [frozenset(units_in(groups))])
    assert found.counts.tolist() == [39, 2]
    (a, b), (n, m) = found.kl[0], found.counts
    assert found.mean_kl("per_sequence")[0] == pytest.approx((a / n + b / m) / 2)
    assert found.mean_kl("per_token")[0] == pytest.approx((a + b) / (n + m))
    assert found.mean_kl("per_sequence")[0] != pytest.approx(found.mean_kl("per_token")[0], rel=0.01)


def test_nothing_stays_behind_an_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, groups = adapted("llama")
    before, own, calls = weights(lm), hooks(lm), []
    plain = ablate(lm, groups, texts(), some_sets(groups)).kl

    def broken(own: LanguageModel, ids: Any, places: Any) -> Any:
        calls.append(len(ids))
        if len(calls) == 3:
            raise ZeroDivisionError
        return continued.logits_at(own, ids, places)

    monkeypatch.setattr("steerkit.units.ablated_batch.logits_at", broken)
    with pytest.raises(ZeroDivisionError):
        ablate(lm, groups, texts(), some_sets(groups))
    monkeypatch.undo()
    assert hooks(lm) == own and len(calls) == 3
    assert same(before, weights(lm))
    assert np.array_equal(ablate(lm, groups, texts(), some_sets(groups)).kl, plain)


def test_memory_that_runs_out_makes_smaller_forwards(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, groups = adapted("llama")
    sets = some_sets(groups)
    plain = ablate(lm, groups, texts(), sets)

    def short(own: LanguageModel, ids: Any, places: Any) -> Any:
        if len(ids) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return continued.logits_at(own, ids, places)

    monkeypatch.setattr("steerkit.units.ablated_batch.logits_at", short)
    monkeypatch.setattr("steerkit.units.ablated_batch.release", lambda: None)  # collects a session's garbage
    assert ablate(lm, groups, texts(), sets).kl == pytest.approx(plain.kl, rel=1e-4, abs=1e-6)


def test_a_family_whose_blocks_hand_on_more_has_whole_forwards(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A Llama whose later blocks read what the first one noted of the same forward."""
    lm = adapted("llama")[0]
    lm = LanguageModel("noting", copy.deepcopy(lm.model), lm.tokenizer, adapter=True)
    groups = lora_groups(lm)
    noted: list[torch.Tensor] = []
    first, last = lm.blocks[0], lm.blocks[-1]
    plain_first, plain_last = first.forward, last.forward

    def note(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        noted[:] = [hidden]
        return plain_first(hidden, *args, **kwargs)

    def read(hidden: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return plain_last(hidden + noted.pop(), *args, **kwargs)

    monkeypatch.setattr(first, "forward", note)
    monkeypatch.setattr(last, "forward", read)
    own = texts()
    sets = [frozenset({unit}) for unit in units_in(groups)]
    with caplog.at_level("WARNING", "steerkit"):
        found = ablate(lm, groups, own, sets)
    assert found.whole == (1, 2, 3) and "whole forwards" in caplog.text
    one = ablate(lm, groups, own, sets, batch_tokens=1)
    assert found.kl == pytest.approx(one.kl, rel=1e-4, abs=1e-6)
    with torch.no_grad(), zeroing(groups) as zeroed:  # by hand, a text and a set at a time
        for row in (0, len(sets) - 1):
            ids = torch.tensor([own[0].ids])
            full = lm.model(input_ids=ids).logits[0].double().numpy()
            zeroed.assign([sets[row]])
            other = lm.model(input_ids=ids).logits[0].double().numpy()
            zeroed.assign(())
            assert found.kl[row, 0] == pytest.approx(by_hand(full, other, own[0])[0], rel=1e-3, abs=1e-5)


def test_recurrent_blocks_are_not_padded() -> None:
    from peft import LoraConfig, get_peft_model

    lm = breed("lfm2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = LoraConfig(r=1, target_modules=["w1", "w2", "w3"], task_type="CAUSAL_LM", init_lora_weights=False)
        model = get_peft_model(copy.deepcopy(lm.model), config).eval()
    lm = LanguageModel("lfm2+lora", model, lm.tokenizer, adapter=True)
    assert lm.batches != "padded"
    groups, own = lora_groups(lm), texts(4)
    sets = [frozenset({unit}) for unit in units_in(groups)]
    found = ablate(lm, groups, own, sets)
    slow = Slow(lm)
    full = slow.logits(frozenset(), own[0].ids)
    for row in (0, 4, len(sets) - 1):
        other = slow.logits(sets[row], own[0].ids)
        assert found.kl[row, 0] == pytest.approx(by_hand(full, other, own[0])[0], rel=1e-3, abs=1e-5)


def test_bfloat16_is_as_near_as_its_numbers() -> None:
    lm, groups = adapted("qwen3")
    half = LanguageModel("half", copy.deepcopy(lm.model).bfloat16(), lm.tokenizer, adapter=True)
    sets = [frozenset(units_in(groups)), frozenset()]
    exact, found = ablate(lm, groups, texts(), sets), ablate(half, lora_groups(half), texts(), sets, with_noise=True)
    assert found.kl[0] == pytest.approx(exact.kl[0], rel=0.2) and (found.kl[1] == 0).all()
    assert (found.noise < 0.1 * found.kl[0]).all()


def test_weak_effects_are_above_rounding() -> None:
    """KL of 1e-9 a token; its float32 sum Σ P (log P − log Q) would be 1e-7 off by a softmax's rounding alone."""
    draw = torch.Generator().manual_seed(0)
    logits = 6 * torch.randn(200, 400, generator=draw)
    nudged = logits + 5e-4 * torch.randn(200, 400, generator=draw)
    exact = [log_softmax(x.double().numpy()) for x in (logits, nudged)]
    kl = (np.exp(exact[0]) * (exact[0] - exact[1])).sum(-1)
    found = divergences(log_probabilities(logits), log_probabilities(nudged)).numpy()
    assert found.mean() == pytest.approx(kl.mean(), abs=5e-8)
    assert (divergences(log_probabilities(logits), log_probabilities(logits)) == 0).all()


def test_what_is_unknown_or_broken_is_told() -> None:
    lm, groups = adapted("llama")
    with pytest.raises(SteerkitError, match=r"no units 9\.down"):
        ablate(lm, groups, texts(), [frozenset({Unit(9, "down")})])
    with pytest.raises(SteerkitError, match="no text"):
        ablate(lm, groups, [], [frozenset()])
    broken = LanguageModel("broken", copy.deepcopy(lm.model), lm.tokenizer, adapter=True)
    own = lora_groups(broken)
    own[-1].module.lora_B["default"].weight.data.fill_(float("inf"))
    with pytest.raises(SteerkitError, match="not finite"):
        ablate(broken, own, texts(), [frozenset()])
