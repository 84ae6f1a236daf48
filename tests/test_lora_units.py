"""A LoRA's scalars are what the paper says: s · γ B is what its projection adds; without them the base is left."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from adapter_zoo import put_on
from tiny import build
from zoo import breed

from steerkit.errors import SteerkitError
from steerkit.models.adapter_layout import adapter_state
from steerkit.models.language_model import LanguageModel
from steerkit.models.lora_units import LoraGroup, lora_groups
from steerkit.models.units import Unit, unit_named, units_in, write_norms

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's
LLAMA = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TARGETS = {
    "llama": LLAMA,
    "qwen3": LLAMA,
    "gemma3": LLAMA,
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "phi3": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
}
PARTS = {
    "llama": ["q", "k", "v", "o", "gate", "up", "down"],
    "qwen3": ["q", "k", "v", "o", "gate", "up", "down"],
    "gemma3": ["q", "k", "v", "o", "gate", "up", "down"],
    "gpt2": ["o", "up", "down", "c_attn"],
    "phi3": ["o", "down", "gate_up_proj", "qkv_proj"],
}
"""Modules that make several parts have their own name, and stand last."""
IDS = torch.tensor([[5, 9, 12, 33, 7, 40], [8, 8, 21, 3, 50, 6]])


def adapted(architecture: str, rank: int = 1, **options: Any) -> LanguageModel:
    lm = breed(architecture) if architecture == "phi3" else build(architecture)
    given = {"r": rank, "lora_alpha": 16, "use_rslora": True, "target_modules": TARGETS[architecture], **options}
    return LanguageModel(architecture, put_on(lm.model, "LORA", given), lm.tokenizer, adapter=True)


@torch.no_grad()
def run(lm: LanguageModel, groups: list[LoraGroup]) -> tuple[torch.Tensor, list[torch.Tensor], list[Any]]:
    """Logits, what each group tells, and (input, output) of each projection."""
    told: list[torch.Tensor] = [torch.empty(0)] * len(groups)
    seen: list[Any] = [None] * len(groups)
    handles = []
    for number, group in enumerate(groups):
        handles.append(group.watch(lambda s, n=number: told.__setitem__(n, s.clone())))
        keep = lambda m, args, out, n=number: seen.__setitem__(n, (args[0].clone(), out.clone()))  # noqa: E731
        handles.append(group.module.register_forward_hook(keep))
    logits = lm.model(input_ids=IDS, use_cache=False).logits
    for handle in handles:
        handle.remove()
    return logits, told, seen


@pytest.mark.parametrize("architecture", TARGETS)
def test_units_stand_in_the_order_in_which_they_are_computed(architecture: str) -> None:
    lm = adapted(architecture)
    units = units_in(lora_groups(lm))
    assert units == tuple(Unit(layer, part) for layer in range(lm.depth) for part in PARTS[architecture])
    assert tuple(unit_named(unit.name) for unit in units) == units


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("architecture", TARGETS)
def test_a_scalar_times_its_direction_is_what_its_projection_adds(architecture: str, rank: int) -> None:
    lm = adapted(architecture, rank)
    lm.model.double()
    groups = lora_groups(lm)
    _, told, seen = run(lm, groups)
    for group, s, (x, out) in zip(groups, told, seen, strict=True):
        layer: Any = group.module
        assert s.shape == (2, 6, rank) and s.abs().max() > 0
        with torch.no_grad():
            added = out - layer.base_layer(x)
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        assert group.gamma == pytest.approx(16 / rank**0.5)
        torch.testing.assert_close(s, x @ a.T, rtol=1e-12, atol=1e-12)
        assert (s @ (16 / rank**0.5 * b.T) - added).abs().max() <= 1e-12 * max(out.abs().max(), added.abs().max())
        torch.testing.assert_close(s.float() @ group.writes, added.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", TARGETS)
def test_merged_weights_have_the_same_scalars(architecture: str) -> None:
    lm = adapted(architecture)
    groups = lora_groups(lm)
    logits, told, _ = run(lm, groups)
    lm.model.merge_adapter()
    again, merged, seen = run(lm, groups)
    torch.testing.assert_close(again, logits, rtol=1e-3, atol=1e-3)
    for group, one, other, (x, out) in zip(groups, told, merged, seen, strict=True):
        assert (one - other).abs().max() <= 1e-4 * one.abs().max()
        lm.model.unmerge_adapter()
        with torch.no_grad():
            added = out - group.module.base_layer(x)
        lm.model.merge_adapter()
        assert (other @ group.writes - added).abs().max() <= 1e-5 * max(out.abs().max(), added.abs().max())
    with pytest.raises(SteerkitError, match="merged into the weights or turned off"):
        groups[0].edit(lambda s: s)


@pytest.mark.parametrize("architecture", TARGETS)
def test_without_scalars_the_base_is_left_bit_for_bit(architecture: str) -> None:
    lm = adapted(architecture)
    groups = lora_groups(lm)
    own, _, _ = run(lm, groups)
    with torch.no_grad(), lm.model.disable_adapter():
        base = lm.model(input_ids=IDS, use_cache=False).logits
    handles = [group.edit(torch.zeros_like) for group in groups]
    none, _, _ = run(lm, groups)
    for handle in handles:
        handle.remove()
    assert torch.equal(none, base) and not torch.equal(own, base)
    assert torch.equal(run(lm, groups)[0], own)


@pytest.mark.parametrize("architecture", TARGETS)
@pytest.mark.parametrize("factor", [2.0, -0.5])
def test_how_an_adapter_is_split_into_a_and_b_changes_raw_scalars_alone(architecture: str, factor: float) -> None:
    lm = adapted(architecture)
    groups = lora_groups(lm)
    logits, told, _ = run(lm, groups)
    norms = write_norms(groups)
    with torch.no_grad():
        for group in groups:
            layer: Any = group.module
            layer.lora_A["default"].weight.mul_(factor)
            layer.lora_B["default"].weight.div_(factor)
    again, others, _ = run(lm, groups)
    assert torch.equal(again, logits)
    for column, (one, other) in enumerate(zip(told, others, strict=True)):
        assert torch.equal(other, factor * one)
        sign = 1 if factor > 0 else -1  # its two signs change places
        assert torch.equal(other * write_norms(groups)[column], sign * one * norms[column])


def test_an_adapter_that_is_off_can_be_read_on_the_bases_inputs() -> None:
    lm = adapted("llama")
    base = LanguageModel("base", lm.model, lm.tokenizer, adapter=False)
    with adapter_state(base):
        groups = lora_groups(base)
        _, told, seen = run(base, groups)
    for group, s, (x, _) in zip(groups, told, seen, strict=True):
        torch.testing.assert_close(s, group.activations(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_dora": True}, "block 0: self_attn.q_proj: is DoRA"),
        ({"lora_bias": True}, "is a LoRA with biases"),
        ({"target_modules": ["lm_head"]}, "lm_head has a LoRA and is in no decoder block"),
        ({"target_modules": ["embed_tokens", "q_proj"]}, "embed_tokens has a LoRA and is in no decoder block"),
    ],
    ids=["DoRA", "biases", "head", "embedding"],
)
def test_what_adds_something_else_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SteerkitError, match=message):
        lora_groups(adapted("llama", **options))


def test_several_adapters_at_once_are_refused() -> None:
    from peft import LoraConfig

    lm = adapted("llama")
    lm.model.add_adapter("second", LoraConfig(r=1, target_modules=["q_proj"]))
    lm.model.base_model.set_adapter(["default", "second"])
    with pytest.raises(SteerkitError, match=r"2 adapters are active at once \(default, second\); turn on one"):
        lora_groups(lm)
    lm.model.set_adapter("default")
    assert len(lora_groups(lm)) == 7 * lm.depth


@pytest.mark.parametrize(
    ("architecture", "parameter"), [("llama", "self_attn.q_proj.weight"), ("olmoe", "mlp.experts.gate_up_proj")]
)
def test_a_lora_on_parameters_is_refused(architecture: str, parameter: str) -> None:
    """PEFT adds it to the weights, experts' included: its A never runs, so that nothing is read or changed."""
    lm = breed("olmoe") if architecture == "olmoe" else build(architecture)
    options = {"r": 1, "target_modules": [], "target_parameters": [parameter]}
    wrapped = LanguageModel(architecture, put_on(lm.model, "LORA", options), lm.tokenizer, adapter=True)
    with pytest.raises(SteerkitError, match="it has no units to read"):
        lora_groups(wrapped)


def test_a_projection_that_blocks_share_is_refused() -> None:
    lm = adapted("llama")
    lm.blocks[1].mlp.down_proj = lm.blocks[0].mlp.down_proj
    with pytest.raises(SteerkitError, match=r"blocks share one adapted projection \(block 0: mlp.down_proj, block 1"):
        lora_groups(lm)


def test_a_model_without_a_lora_is_refused() -> None:
    with pytest.raises(SteerkitError, match="llama: has no LoRA, so there are no scalars to read"):
        lora_groups(build("llama"))
