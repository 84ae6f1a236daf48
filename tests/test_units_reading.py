"""Units read in batches are those of single rows under a hook of the test's own, and what can't be read is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from adapter_zoo import put_on
from test_lora_units import TARGETS, adapted
from tiny import build, random_items, tiny
from tiny_training import hooks
from torch import Tensor

from steerkit.data.trace import Item
from steerkit.errors import SteerkitError
from steerkit.models.language_model import LanguageModel
from steerkit.models.lora_units import lora_groups
from steerkit.models.units import UnitGroup, units_in
from steerkit.units.own_probability import first_token_shares, next_token_sums
from steerkit.units.reading import read_units

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's
ITEMS = random_items(9)


@dataclass(frozen=True, eq=False)
class Neurons(UnitGroup):
    """Inputs of an MLP's last projection: units that are no LoRA's."""

    times: int = 1

    @property
    def count(self) -> int:
        return int(self.module.weight.shape[1])

    @property
    def writes(self) -> Tensor:
        return self.module.weight.T.float()

    def activations(self, x: Tensor) -> Tensor:
        return x.float()

    def watch(self, tell: Callable[[Tensor], None]) -> Any:
        def see(module: Any, args: Any) -> None:
            for _ in range(self.times):
                tell(args[0])

        return self.module.register_forward_pre_hook(see)

    def edit(self, change: Callable[[Tensor], Tensor]) -> Any:
        return self.module.register_forward_pre_hook(lambda module, args: (change(args[0]),))


def neurons(lm: LanguageModel, times: int = 1) -> list[Neurons]:
    return [
        Neurons(layer, "down", "mlp.down_proj", block.mlp.down_proj, times) for layer, block in enumerate(lm.blocks)
    ]


def read(lm: LanguageModel, items: list[Item], groups: Any, **options: Any) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}

    def take(item: Item, numbers: Tensor) -> None:
        assert item.trace.id not in found and numbers.dtype == torch.float32 and numbers.device.type == "cpu"
        found[item.trace.id] = numbers.numpy().copy()

    read_units(lm, items, groups, take, **options)
    return found


def inputs_of(lm: LanguageModel, item: Item, groups: list[Any]) -> list[tuple[Any, Tensor]]:
    """Each group with its module's input [T, D], by a forward of one row."""
    inputs: dict[int, Tensor] = {}
    handles = [
        group.module.register_forward_pre_hook(lambda m, args, n=number: inputs.update({n: args[0][0]}))
        for number, group in enumerate(groups)
    ]
    with torch.no_grad():
        lm.model(input_ids=torch.tensor([item.ids]), use_cache=False)
    for handle in handles:
        handle.remove()
    return [(group, inputs[number]) for number, group in enumerate(groups)]


@cache
def lora(architecture: str) -> LanguageModel:
    return adapted(architecture, 2)


@pytest.mark.parametrize("architecture", TARGETS)
def test_batches_give_what_transformers_gives_row_by_row(architecture: str) -> None:
    lm = lora(architecture)
    groups, calls = lora_groups(lm), list[tuple[int, int]]()
    found = read(lm, ITEMS, groups, batch_tokens=100, on_batch=lambda *done: calls.append(done))
    assert calls[-1][0] == calls[-1][1] > 1
    for item in ITEMS:
        wanted = torch.cat([given @ g.module.lora_A["default"].weight.T for g, given in inputs_of(lm, item, groups)], 1)
        wanted = wanted.detach().numpy()
        assert found[item.trace.id].shape == (len(item.ids), len(units_in(groups)))
        np.testing.assert_allclose(found[item.trace.id], wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())


def test_merged_or_not_and_one_by_one_the_numbers_are_the_same() -> None:
    lm = adapted("llama")
    groups = lora_groups(lm)
    found = read(lm, ITEMS, groups)
    alone = {name: own for item in ITEMS for name, own in read(lm, [item], groups).items()}
    lm.model.merge_adapter()
    merged = read(lm, ITEMS, groups)
    for name, own in found.items():
        np.testing.assert_allclose(alone[name], own, atol=1e-5 * np.abs(own).max())
        np.testing.assert_allclose(merged[name], own, atol=1e-4 * np.abs(own).max())


def test_units_that_are_no_loras_are_read_alike() -> None:
    lm = tiny("llama")
    found = read(lm, ITEMS, neurons(lm))
    item, seen = ITEMS[0], list[Tensor]()
    handle = lm.blocks[2].mlp.down_proj.register_forward_pre_hook(lambda m, args: seen.append(args[0][0]))
    with torch.no_grad():
        lm.model(input_ids=torch.tensor([item.ids]))
    handle.remove()
    width = lm.inner_width
    np.testing.assert_allclose(found[item.trace.id][:, 2 * width : 3 * width], seen[0].numpy(), atol=1e-5)


def test_nothing_runs_after_the_last_unit() -> None:
    lm = tiny("llama")
    ran: list[int] = []
    handles = [
        block.register_forward_hook(lambda m, a, o, layer=layer: ran.append(layer))
        for layer, block in enumerate(lm.blocks)
    ]
    read(lm, ITEMS[:1], neurons(lm)[:2])
    for handle in handles:
        handle.remove()
    assert ran == [0, 1]


def test_hooks_come_off_also_where_reading_fails() -> None:
    lm = tiny("llama")
    before = hooks(lm)

    def fails(item: Item, numbers: Tensor) -> None:
        raise RuntimeError("no room on the disk")

    with pytest.raises(RuntimeError, match="no room on the disk"):
        read_units(lm, ITEMS, neurons(lm), fails)
    assert hooks(lm) == before


def test_memory_that_runs_out_halves_the_batches(caplog: pytest.LogCaptureFixture) -> None:
    lm = tiny("llama")
    wanted, groups = read(lm, ITEMS, neurons(lm)), neurons(lm)

    def limited(module: Any, args: Any) -> None:
        if args[0].shape[0] > 2:
            raise torch.OutOfMemoryError("out of memory")

    handle = lm.blocks[1].register_forward_pre_hook(limited)
    found = read(lm, ITEMS, groups)
    handle.remove()
    assert "out of memory on" in caplog.text
    for name, own in wanted.items():
        np.testing.assert_allclose(found[name], own, atol=1e-5)


def test_what_cannot_be_read_is_refused_by_name() -> None:
    lm = tiny("llama")
    own = neurons(lm)
    with pytest.raises(SteerkitError, match="llama: there are no units to read"):
        read(lm, ITEMS, [])
    with pytest.raises(SteerkitError, match=r"units can't be read: block 0: mlp\.down_proj has run 2 times"):
        read(lm, ITEMS, neurons(lm, times=2))
    with pytest.raises(SteerkitError, match=r"block 1: elsewhere has not run"):
        read(lm, ITEMS, [own[0], replace(own[1], name="elsewhere", module=torch.nn.Linear(24, 16))])


def test_a_number_that_is_not_finite_is_named() -> None:
    lm = build("llama")
    with torch.no_grad():
        lm.blocks[1].mlp.up_proj.weight[3].fill_(float("inf"))
    with pytest.raises(
        SteerkitError, match=r"llama: unit 1\.down\.3 at token \d+ of trace 't\d' is not a finite number"
    ):
        read(lm, ITEMS, neurons(lm)[:2])


# --- a model's own probabilities --------------------------------------------------------------------------------------


def test_shares_of_first_tokens_are_counted_over_all_spans() -> None:
    shares = first_token_shares(ITEMS, "backtracking")
    firsts = [(item.ids[span.first], span.label == "backtracking") for item in ITEMS for span in item.spans]
    for token in {token for token, _ in firsts}:
        own = [hit for other, hit in firsts if other == token]
        assert shares.get(token, 0.0) == pytest.approx(sum(own) / len(own))


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2", "lora"])
def test_sums_over_the_vocabulary_are_those_of_all_logits(architecture: str) -> None:
    """Gemma 2 caps its logits behind the head."""
    lm = lora("llama") if architecture == "lora" else tiny(architecture)
    weights = {5: 0.25, 9: 1.0, 33: 0.5}
    found = next_token_sums(lm, ITEMS, weights, batch_tokens=100, room=64 * 7)
    for item in ITEMS:
        with torch.no_grad():
            p = lm.model(input_ids=torch.tensor([item.ids])).logits[0].double().softmax(-1)
        wanted = sum(share * p[:, token] for token, share in weights.items())
        np.testing.assert_allclose(found[item.trace.id], wanted.numpy(), rtol=1e-4, atol=1e-7)
    assert "forward" not in vars(lm.decoder)


def test_a_bases_probabilities_under_a_shared_adapter_are_its_own() -> None:
    plain = build("llama")
    wanted = next_token_sums(plain, ITEMS, {5: 1.0})
    shared = put_on(plain.model, "LORA", {"r": 1, "target_modules": ["q_proj", "down_proj"]})
    base = LanguageModel("base", shared, plain.tokenizer, adapter=False)
    own = LanguageModel("own", shared, plain.tokenizer, adapter=True)
    for name, values in next_token_sums(base, ITEMS, {5: 1.0}).items():
        np.testing.assert_array_equal(values, wanted[name])
        assert not np.allclose(next_token_sums(own, ITEMS[:1], {5: 1.0})["t0"], wanted["t0"])


def test_probabilities_that_are_not_finite_are_named() -> None:
    lm = build("llama")
    with torch.no_grad():
        lm.model.lm_head.weight[3].fill_(float("nan"))
    with pytest.raises(SteerkitError, match=r"llama: the probabilities after token 0 of trace 't\d' are not finite"):
        next_token_sums(lm, ITEMS, {5: 1.0})
