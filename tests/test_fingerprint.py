"""A fingerprint takes in all that changes a model, and is of the model as it is when it is asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import dispatch_model
from adapter_zoo import VARIANTS, WORKING, put_on
from tiny import build, tiny, word_tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig
from zoo import breed

from steerkit.models.fingerprint import LINE, SUMMED
from steerkit.models.language_model import LanguageModel
from steerkit.models.loading import load_model
from steerkit.models.models import Models

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's


def test_the_embedded_models_have_the_fingerprints_that_their_runs_hold() -> None:
    assert [load_model(f"pocket:{name}").fingerprint for name in ("base", "reasoning")] == [
        "57f3dbc8af8503a1",
        "b0dde68467619842",
    ]


def in_place(model: Any) -> None:
    with torch.no_grad():
        model.lm_head.weight[5, 3] += 1e-6


def behind_its_back(model: Any) -> None:
    model.lm_head.weight.data[5, 3] += 1e-6  # autograd's version counter doesn't see it


def replaced(model: Any) -> None:
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight + 1e-6)


def loaded(model: Any) -> None:
    model.load_state_dict(build("llama", 1).model.state_dict())


@pytest.mark.parametrize("change", [in_place, behind_its_back, replaced, loaded])
def test_weights_may_change_after_it_was_asked_for(change: Callable[[Any], None]) -> None:
    lm = build("llama")
    before = lm.fingerprint
    assert lm.fingerprint == before == tiny("llama").fingerprint
    change(lm.model)
    assert lm.fingerprint != before


def test_two_models_are_the_same_only_as_long_as_they_are() -> None:
    base, other = build("llama"), build("llama")
    models = Models({"base": base, "other": other}, "base")
    assert models.same("base", "other")
    in_place(other.model)
    assert not models.same("base", "other")


SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "rotary base": ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
    "rotary scaling": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1e4,
                "factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    "norm": ("llama", {"rms_norm_eps": 1e-3}),
    "activation": ("llama", {"hidden_act": "gelu"}),
    "soft cap": ("gemma2", {"final_logit_softcapping": 5.0}),
    "window": ("mistral", {"sliding_window": 3}),
    "multiplier": ("granite", {"residual_multiplier": 0.7}),
    "experts": ("mixtral", {"num_experts_per_tok": 1}),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_change_the_forward_are_in_it(name: str) -> None:
    architecture, options = SETTINGS[name]
    plain = breed(architecture)
    config = type(plain.model.config)(**{**plain.model.config.to_dict(), **options})
    model = AutoModelForCausalLM.from_config(config).eval()
    model.load_state_dict(plain.model.state_dict())
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        assert not torch.equal(model(ids).logits, plain.model(ids).logits)
    assert LanguageModel("x", model, None).fingerprint != plain.fingerprint


def test_settings_that_do_not_are_not() -> None:
    plain = tiny("llama")
    options = {"use_cache": False, "eos_token_id": 7, "attention_dropout": 0.5, "architectures": ["X"]}
    config = LlamaConfig(**{**plain.model.config.to_dict(), **options})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    model.load_state_dict(plain.model.state_dict())
    assert LanguageModel("x", model, None).fingerprint == plain.fingerprint
    assert LanguageModel("x", torch.compile(model), None).fingerprint == plain.fingerprint


# --- large tensors ---------------------------------------------------------------------------------------------------


class Large(torch.nn.Module):
    """A single tensor."""

    def __init__(self, numbers: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.config = LlamaConfig()
        draw = torch.Generator().manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(numbers, generator=draw).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("numbers", [SUMMED + 1, 2 * SUMMED])
def test_every_number_of_a_large_tensor_counts(numbers: int, dtype: torch.dtype) -> None:
    model = Large(numbers, dtype)
    model.config.get_text_config = lambda decoder: model.config  # type: ignore[method-assign,assignment]
    lm = LanguageModel("x", model, None)
    seen = {lm.fingerprint}
    places = [0, 1, 7, 4 * LINE, numbers // 2 + 3, numbers - 2, numbers - 1]
    for place in places:
        before = model.weight.data[place].clone()
        model.weight.data[place] = -before
        seen.add(lm.fingerprint)
        model.weight.data[place] = before
    for a, b in ((3, 4), (0, numbers - 1), (5, 5 + 8 * LINE)):  # exchanged, also in one column of the sums
        order = torch.arange(numbers)
        order[[a, b]] = order[[b, a]]
        model.weight.data = model.weight.data[order]
        seen.add(lm.fingerprint)
        model.weight.data = model.weight.data[order]
    assert len(seen) == 1 + len(places) + 3
    assert lm.fingerprint in seen


def test_offloaded_weights_count(tmp_path) -> None:
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    places = {
        "model.embed_tokens": "cpu",
        "model.layers": "disk",
        "model.norm": "cpu",
        "model.rotary_emb": "cpu",
        "lm_head": "disk",
    }
    prints = set()
    for number, change in enumerate((None, in_place)):
        whole = build("llama").model
        if change:
            change(whole)
        expected = LanguageModel("x", whole, None).fingerprint
        there = dispatch_model(whole, places, main_device="cpu", offload_dir=str(tmp_path / str(number)))
        assert there.lm_head.weight.device.type == "meta"
        assert LanguageModel("x", there, None).fingerprint == expected
        prints.add(expected)
    assert len(prints) == 2


# --- adapters (every kind: test_adapter_kinds) -----------------------------------------------------------------------


LORA = WORKING["LORA"]


def test_all_of_an_adapter_is_in_it() -> None:
    prints = set()
    for kind, options in (
        ("LORA", LORA),
        ("LORA", {**LORA, "lora_alpha": 2}),
        ("LORA", {**LORA, "use_rslora": True}),
        ("LORA", {**LORA, **VARIANTS["whole modules"]}),
        ("LORA", {**LORA, **VARIANTS["single tokens"]}),
        ("IA3", WORKING["IA3"]),
        ("VERA", WORKING["VERA"]),
        ("VERA", {**WORKING["VERA"], "projection_prng_key": 7}),
    ):
        lm = LanguageModel("x", put_on(build("llama").model, kind, options), word_tokenizer(), adapter=True)
        prints.add(lm.fingerprint)
        assert LanguageModel("b", lm.model, word_tokenizer()).fingerprint == tiny("llama").fingerprint
    assert len(prints) == 8


def test_adapters_that_transformers_put_on_by_itself() -> None:
    from peft import LoraConfig

    model = build("llama").model
    model.add_adapter(LoraConfig(**LORA, init_lora_weights=False))
    lm = LanguageModel("x", model, None)
    on = lm.fingerprint
    model.disable_adapters()
    off = lm.fingerprint
    model.enable_adapters()
    assert lm.fingerprint == on != off


def test_adapters_that_change_after_it_was_asked_for() -> None:
    model = put_on(build("llama").model, "LORA", {**LORA, **VARIANTS["whole modules"]})
    lm, base = (LanguageModel("x", model, word_tokenizer(), adapter=on) for on in (True, False))
    prints = [lm.fingerprint]
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    layer.scaling["default"] *= 2
    prints.append(lm.fingerprint)
    layer.lora_A["default"].weight.data[0, 0] += 1
    prints.append(lm.fingerprint)
    model.base_model.model.lm_head.modules_to_save["default"].weight.data[0, 0] += 1
    prints.append(lm.fingerprint)
    assert base.fingerprint == tiny("llama").fingerprint
    model.base_model.model.lm_head.original_module.weight.data[0, 0] += 1
    assert base.fingerprint != tiny("llama").fingerprint
    prints.append(lm.fingerprint)
    assert len(set(prints)) == len(prints)
