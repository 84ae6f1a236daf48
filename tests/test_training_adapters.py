"""What is trained of a model: LoRA by PEFT, and the model's own weights; attached, taken off, saved, gone on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from steerkit_plugins.adapters.lora import Lora
from tiny import build, word_tokenizer, wrap_with_lora
from tiny_training import Full, hooks, lora, push, run, same, weights
from torch import Tensor
from zoo import breed

from steerkit.errors import InputError, SteerkitError
from steerkit.models.language_model import LanguageModel
from steerkit.models.loading import load_model

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ONE_STEP = {"max_steps": 1, "warmup_steps": 0}


def saved_base(folder: Path) -> LanguageModel:
    """A model in a folder, as a user has it."""
    lm = build("llama")
    lm.model.save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return load_model(str(folder), device="cpu")


def logits(lm: LanguageModel) -> Tensor:
    with torch.no_grad():
        found: Tensor = lm.model(torch.tensor([[5, 9, 12, 33]]), use_cache=False).logits
    return found


def trained_names(lm: LanguageModel) -> set[str]:
    return {name for name, weight in lm.model.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "qwen3_moe"])
@pytest.mark.parametrize("adapter", [lora(), lora(modules_to_save=("lm_head",)), Full()], ids=["lora", "head", "full"])
def test_a_model_is_as_before_when_it_is_taken_off(name: str, adapter: Any, tmp_path: Path) -> None:
    lm = breed(name)
    for parameter in list(lm.model.parameters())[::2]:
        parameter.requires_grad_(False)
    before, told, plain = weights(lm), [p.requires_grad for p in lm.model.parameters()], logits(lm)
    modules = [(path, type(module)) for path, module in lm.model.named_modules()]
    config = lm.model.config.to_dict()
    trained = run(lm, tmp_path, adapter=adapter, edits=push(0), arguments=ONE_STEP)
    assert not torch.equal(logits(trained.lm), plain) and not torch.equal(logits(lm), plain)
    for _ in "ab":
        trained.detach()
    assert same(weights(lm), before) and torch.equal(logits(lm), plain) and hooks(lm) == []
    assert [p.requires_grad for p in lm.model.parameters()] == told
    assert [(path, type(module)) for path, module in lm.model.named_modules()] == modules
    assert lm.model.config.to_dict() == config


def test_lora_by_its_sizes() -> None:
    """Rank 1 on seven projections of one block: r (d_in + d_out) numbers each."""
    lm = build("llama")
    adapter = Lora(r=1, lora_alpha=16, use_rslora=True, target_modules=PROJECTIONS, layers=(2,))
    attached = adapter.attach(lm, seed=0)
    found = {name: p.numel() for name, p in attached.model.named_parameters() if p.requires_grad}
    assert sum(found.values()) == (16 + 16) + 2 * (16 + 8) + (16 + 16) + 2 * (16 + 24) + (24 + 16)
    assert all(".layers.2." in name for name in found) and len(found) == 14
    assert attached.model.get_submodule("base_model.model.model.layers.2.mlp.up_proj").scaling["default"] == 16
    adapter.detach(attached)
    for options, count in (
        ({"layers": (0, 3)}, 2 * 7 * 2),
        ({"target_modules": r".*layers\.1\.mlp\.(gate|up)_proj"}, 4),
        ({"target_modules": ("q_proj",), "modules_to_save": ("lm_head",)}, 9),
        ({"target_modules": ("q_proj",), "options": {"bias": "none", "use_dora": True}}, 12),
    ):
        adapter = lora(**options)
        attached = adapter.attach(lm, seed=0)
        assert len(trained_names(attached)) == count, options
        adapter.detach(attached)


def test_initial_values_follow_the_seed_alone() -> None:
    found = []
    for seed, noise in ((1, 5), (1, 6), (2, 5)):
        lm = build("llama")
        torch.manual_seed(noise)
        state = torch.get_rng_state()
        attached = lora().attach(lm, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        found.append(weights(attached))
    assert same(found[0], found[1]) and not same(found[0], found[2])


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's, on loading
def test_an_adapter_is_loaded_on_its_base_and_gone_on_from(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    base = saved_base(tmp_path / "base")
    first = run(base, tmp_path / "a", adapter=lora(target_modules=PROJECTIONS), edits=push())
    first.save(tmp_path / "first")
    expected, kept = logits(first.lm), weights(first.lm)
    first.detach()
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    loaded = load_model(str(tmp_path / "base"), adapter=str(tmp_path / "first"), device="cpu")
    torch.testing.assert_close(logits(loaded), expected, rtol=0, atol=0)
    more = lora(target_modules=PROJECTIONS)
    again = more.attach(base, seed=9, start=tmp_path / "first")
    assert same(weights(again), kept) and len(trained_names(again)) == 2 * 7 * 4
    more.detach(again)
    second = run(base, tmp_path / "b", adapter=more, start=tmp_path / "first", arguments={"save_strategy": "steps"})
    assert not same(weights(second.lm), kept)
    second.save(tmp_path / "second")
    assert "says that it was made for" not in caplog.text
    second.detach()
    with pytest.raises(SteerkitError, match=r"b: has a checkpoint of another training: start\.adapter_model.saf"):
        run(base, tmp_path / "b", adapter=more, start=tmp_path / "second")
    with pytest.raises(SteerkitError, match="the adapter to go on from has other settings: r is 4 there"):
        run(base, tmp_path / "c", adapter=lora(r=8), start=tmp_path / "first")
    with pytest.raises(SteerkitError, match=r"there is no adapter_config\.json"):
        run(base, tmp_path / "c", adapter=lora(), start=tmp_path / "nowhere")
    assert torch.equal(logits(base), logits(load_model(str(tmp_path / "base"), device="cpu")))


def test_whole_weights_are_a_model_and_gone_on_from(tmp_path: Path) -> None:
    base = saved_base(tmp_path / "base")
    first = run(base, tmp_path / "a", adapter=Full())
    first.save(tmp_path / "first")
    loaded, kept = load_model(str(tmp_path / "first"), device="cpu"), weights(first.lm)
    assert same(weights(loaded), kept) and loaded.tokenizer("the sum") == base.tokenizer("the sum")
    first.detach()
    again = Full().attach(base, seed=0, start=tmp_path / "first")
    assert same(weights(again), kept)


def test_some_of_the_weights() -> None:
    lm = build("llama")
    full = Full(parts=r"layers\.[12]\.mlp")
    assert trained_names(full.attach(lm, seed=0)) == {
        f"model.layers.{layer}.mlp.{part}_proj.weight" for layer in (1, 2) for part in ("gate", "up", "down")
    }
    full.detach(lm)
    assert len(trained_names(lm)) == len(list(lm.model.parameters()))


def test_dropout_of_the_adapter_stays(tmp_path: Path) -> None:
    plain = run(build("llama"), tmp_path / "a", adapter=lora(), arguments=ONE_STEP | {"max_steps": 2})
    noisy = run(
        build("llama"),
        tmp_path / "b",
        adapter=lora(options={"lora_dropout": 0.5}),
        arguments=ONE_STEP | {"max_steps": 2},
    )
    assert not same(weights(plain.lm), weights(noisy.lm))


def test_what_cant_be_attached(tmp_path: Path) -> None:
    lm = build("llama")
    before = weights(lm)
    with pytest.raises(InputError) as caught:
        lora(layers=(4,), options={"dropuot": 1, "r": 3, "lora_dropuot": 0.1}).attach(lm, seed=0)
    assert [str(problem) for problem in caught.value.problems] == [
        "options.dropuot: peft.LoraConfig has no such argument; did you mean 'lora_dropout'?",
        "options.r: is an option of its own here; don't give it under `options`",
        "options.lora_dropuot: peft.LoraConfig has no such argument; did you mean 'lora_dropout'?",
        "layers: 4 is not a block of llama: it has 4, numbered from 0",
    ]
    for adapter, message in (
        (lora(target_modules=("q_prj",)), "lora: PEFT refuses these options: Target modules .*q_prj.* not found"),
        (lora(target_modules="q_proj", layers=(1,)), "a regular expression: name the blocks in it, not in `layers`"),
        (Full(parts="mpl"), r"full: no weight of llama has 'mpl' in its name; choose from .*layers\.0\.mlp"),
    ):
        with pytest.raises(SteerkitError, match=message):
            run(lm, tmp_path, adapter=adapter)
    with pytest.raises(SteerkitError, match=r"full: parts: '\(' is no regular expression"):
        Full(parts="(")
    with pytest.raises(SteerkitError, match="has an adapter on; load its base and give the adapter's folder as start"):
        run(wrap_with_lora(), tmp_path)
    assert same(weights(lm), before)
