"""Adapter `transcoder`: beside the MLPs of every architecture, saved and loaded, its features as units."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from steerkit_plugins.transcoder.units import transcoder_groups
from steerkit_plugins.transcoder.variants import write_variant
from tiny import build, random_items, word_tokenizer
from tiny_training import same, weights
from tiny_transcoder import adapter, logits, shaken, with_transcoder
from torch import Tensor
from zoo import breed

from steerkit.data.site import Site
from steerkit.errors import InputError, SteerkitError
from steerkit.generation.stream import GenerationRow, generate
from steerkit.models.adapters import with_adapter
from steerkit.models.language_model import LanguageModel
from steerkit.models.loading import ModelShape, load_model
from steerkit.models.models import Models
from steerkit.models.parts_from import PARTS, block_part, modules_of, put_parts
from steerkit.models.sites import resolve
from steerkit.units.reading import read_units

ITEMS = random_items(2)
BESIDE = ("llama", "qwen2", "qwen3", "gemma2", "gemma3", "mistral", "gpt2", "gpt_neox", "phi3", "olmo2", "qwen3_moe")


def saved(folder: Path, seed: int = 0) -> LanguageModel:
    lm = build("llama", seed)
    lm.model.save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return load_model(str(folder), device="cpu")


@pytest.mark.parametrize("architecture", BESIDE)
def test_it_adds_what_the_equation_says(architecture: str) -> None:
    lm = breed(architecture)
    plain = logits(lm)
    kept = adapter()
    attached = kept.attach(lm, seed=1)
    attached.model.eval()
    assert torch.equal(logits(attached), plain)  # decoders start at 0
    shaken(attached)
    changed = logits(attached)
    assert not torch.allclose(changed, plain)
    own = {
        layer: {
            name.rpartition("default.")[2]: weight.detach().clone()
            for name, weight in block.named_parameters()
            if "transcoder_parts" in name
        }
        for layer, block in enumerate(attached.blocks)
    }
    kept.detach(attached)
    assert torch.equal(logits(lm), plain)

    def add(t: dict[str, Tensor]) -> Any:
        def hook(module: Any, args: Any, output: Any) -> Any:
            f = (args[0] @ t["encoder.weight"].T + t["encoder.bias"]).clamp(min=0)
            added = f @ t["decoder.weight"].T + t["decoder.bias"]
            return (output[0] + added, *output[1:]) if isinstance(output, tuple) else output + added

        return hook

    handles = [block_part(lm, n, "mlp").register_forward_hook(add(t)) for n, t in own.items()]
    torch.testing.assert_close(logits(lm), changed, rtol=1e-4, atol=1e-4)
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("architecture", ["opt", "bloom"])
def test_blocks_without_an_mlp_of_their_own_are_refused(architecture: str) -> None:
    with pytest.raises(SteerkitError, match="block 0 has no module of its own for its mlp"):
        adapter().attach(breed(architecture), seed=0)


def test_wrong_blocks_are_told_at_once() -> None:
    with pytest.raises(InputError, match="7 is not a block of llama: it has 4"):
        adapter(layers=(1, 7)).attach(breed("llama"), seed=0)


def test_saved_loaded_taken_off(tmp_path: Path) -> None:
    base = saved(tmp_path / "base")
    before, plain = weights(base), logits(base)
    kept = adapter(layers=(1, 3), scale=0.5, decoder_bias=False)
    attached = shaken(kept.attach(base, seed=0))
    attached.model.eval()
    changed, told = logits(attached), attached.fingerprint
    kept.save(attached, tmp_path / "adapter")
    kept.detach(attached)
    assert torch.equal(logits(base), plain) and same(weights(base), before)
    again = load_model(str(tmp_path / "base"), adapter=str(tmp_path / "adapter"), device="cpu")
    assert torch.equal(logits(again), changed) and again.fingerprint == told
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    further = kept.attach(base, seed=0, start=tmp_path / "adapter")
    assert torch.equal(logits(further), changed)
    kept.detach(further)
    with pytest.raises(SteerkitError, match="features is 6 there"):
        adapter(features=7, decoder_bias=False, scale=0.5).attach(base, seed=0, start=tmp_path / "adapter")


def test_seeds_make_the_first_weights_and_leave_the_generator_alone() -> None:
    def encoder(seed: int) -> Tensor:
        attached = adapter().attach(breed("llama"), seed=seed)
        return transcoder_groups(attached)[2].transcoder.encoder.weight.detach()

    torch.manual_seed(5)
    first, drawn = encoder(1), torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(encoder(1), first) and torch.equal(torch.rand(3), drawn) and not torch.equal(encoder(2), first)
    assert first.abs().max() <= 16**-0.5 and first.std() == pytest.approx(16**-0.5 / 3**0.5, rel=0.2)


@pytest.mark.parametrize("options", [{}, {"decoder_bias": False}, {"layers": (0, 2)}])
def test_its_size_is_known_before(options: dict[str, Any]) -> None:
    kept = adapter(**options)
    attached = kept.attach(breed("llama"), seed=0)
    count = sum(weight.numel() for weight in attached.model.parameters() if weight.requires_grad)
    assert kept.count(ModelShape("llama", 4, 16, 8, 1, 1, 64)) == count
    paper = adapter(features=8192).count(ModelShape("qwen", 28, 3584, 512, 1, 1, 152064))
    assert paper == 1_644_496_896  # arXiv 2602.20904's pair


def test_it_can_not_be_merged() -> None:
    from steerkit.models.adapters import merged_model

    with pytest.raises(SteerkitError, match="runs beside the MLP and is no part of its weights"):
        merged_model(with_transcoder("llama").model, "m")


def test_sites_inside_a_wrapped_mlp_are_those_of_the_model() -> None:
    lm = with_transcoder("llama")
    whole = resolve(lm, Site(1, "mlp", "out"))
    assert type(whole.module).__name__ == "TranscoderLayer"
    for part, name in (("gate", "gate_proj"), ("up", "up_proj"), ("down", "down_proj")):
        place = resolve(lm, Site(1, part, "out"))  # type: ignore[arg-type]
        assert place.module is getattr(whole.module.base_layer, name) and place.name == f"mlp.base_layer.{name}"


def test_features_are_units() -> None:
    lm = with_transcoder("llama", scale=0.5)
    groups = transcoder_groups(lm)
    found: dict[str, np.ndarray] = {}
    read_units(lm, ITEMS, groups, lambda item, numbers: found.__setitem__(item.trace.id, numbers.numpy()))
    item = ITEMS[0]
    seen: list[Tensor] = []
    inside = groups[2].module
    handles = [inside.register_forward_pre_hook(lambda m, args: seen.append(args[0]))]
    handles.append(inside.base_layer.register_forward_hook(lambda m, a, out: seen.append(out)))
    handles.append(inside.register_forward_hook(lambda m, a, out: seen.append(out)))
    logits(lm, (item.ids,))
    for handle in handles:
        handle.remove()
    x, own, both = seen
    t = groups[2].transcoder
    f = (x @ t.encoder.weight.T + t.encoder.bias).clamp(min=0)[0].detach()
    np.testing.assert_allclose(found[item.trace.id][:, 12:18], f.numpy(), atol=1e-4)
    added = f @ groups[2].writes + 0.5 * t.decoder.bias.detach()
    torch.testing.assert_close((both - own)[0], added, rtol=1e-4, atol=1e-4)
    assert [str(unit) for unit in groups[2].units[:2]] == ["2.mlp", "2.mlp.1"]


def test_all_features_off_is_not_the_adapter_off() -> None:
    """Decoder biases stay."""
    lm = with_transcoder("llama")
    handles = [group.edit(torch.zeros_like) for group in transcoder_groups(lm)]
    masked = logits(lm)
    with lm.model.disable_adapter():
        off = logits(lm)
    for handle in handles:
        handle.remove()
    assert not torch.allclose(masked, off)
    with torch.no_grad():
        for group in transcoder_groups(lm):
            group.transcoder.decoder.bias.zero_()
    handles = [group.edit(torch.zeros_like) for group in transcoder_groups(lm)]
    assert torch.equal(logits(lm), off)
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize(
    "how",
    [
        {"off": {1: (0, 4), 3: (2,)}},
        {"only": {0: (1,), 1: (3, 5)}},
        {"only": {}, "biases": False},
        {"off": {}, "scale": -0.5},
    ],
)
def test_variants_on_disk_are_edits_in_memory(how: dict[str, Any], tmp_path: Path) -> None:
    base = saved(tmp_path / "base")
    kept = adapter()
    attached = shaken(kept.attach(base, seed=0))
    attached.model.eval()
    kept.save(attached, tmp_path / "adapter")

    def masked(layer: int) -> Any:
        gone = torch.zeros(6, dtype=torch.bool)
        gone[list(how.get("off", {}).get(layer, ()))] = True
        if "only" in how:
            gone = torch.ones(6, dtype=torch.bool)
            gone[list(how["only"].get(layer, ()))] = False
        return lambda f: f.masked_fill(gone, 0)

    for group in transcoder_groups(attached):
        group.edit(masked(group.layer))
        group.transcoder.scale = how.get("scale", 1.0)
        if not how.get("biases", True):
            torch.nn.init.zeros_(group.transcoder.decoder.bias)
    write_variant(tmp_path / "adapter", tmp_path / "variant", **how)
    again = with_adapter(load_model(str(tmp_path / "base"), device="cpu"), str(tmp_path / "variant"), must_change=False)
    torch.testing.assert_close(logits(again), logits(attached), rtol=1e-5, atol=1e-5)


def test_the_engine_writes_what_transformers_writes() -> None:
    lm = with_transcoder("llama")
    prompts = [[5, 9, 12], [7, 30, 22, 14, 9]]
    rows = [GenerationRow(prompt, 0, ()) for prompt in prompts]
    texts = generate(lm, rows, max_new_tokens=6, batch_size=2, temperature=0)
    for prompt, text in zip(prompts, texts, strict=True):
        alone = lm.model.generate(torch.tensor([prompt]), max_new_tokens=6, do_sample=False, pad_token_id=0)
        assert text.ids == [i for i in alone[0, len(prompt) :].tolist() if i != 1]


@pytest.mark.parametrize("part", PARTS)
def test_parts_of_another_model_and_back(part: Any) -> None:
    lm, donor = build("llama", 0), build("llama", 1)
    before = logits(lm)
    names = [name for name, _ in modules_of(lm, part)]
    swapped = put_parts(lm, donor, [part])
    state, given = lm.model.state_dict(), donor.model.state_dict()
    own = build("llama", 0).model.state_dict()
    for key in state:
        inside = any(key.startswith(f"{name}.") for name in names)
        assert torch.equal(state[key], (given if inside else own)[key])
    assert not torch.allclose(logits(lm), before)
    swapped.undo(lm.model)
    assert torch.equal(logits(lm), before)


def test_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SteerkitError, match="its mlp can't come from gpt2"):
        put_parts(build("llama"), build("gpt2"), ["mlp"])


def test_a_recipe_names_the_hybrid(tmp_path: Path) -> None:
    base, target = saved(tmp_path / "base", 0), saved(tmp_path / "target", 1)
    specs: dict[str, Any] = {
        "base": str(tmp_path / "base"),
        "target": str(tmp_path / "target"),
        "hybrid": {"weights": str(tmp_path / "target"), "parts_from": {"mlp": "base"}},
    }
    models = Models(specs, writer="target")
    hybrid = models["hybrid"]
    put_parts(target, base, ["mlp"])
    assert torch.equal(logits(hybrid), logits(target)) and hybrid.fingerprint == target.fingerprint
    assert not models.same("hybrid", "target") and not models.alike("hybrid", "target")
    assert models.copy("hybrid").model is not hybrid.model and torch.equal(
        logits(models.copy("hybrid")), logits(hybrid)
    )
    for wrong, told in (({"mlp": "nobody"}, "none is called 'nobody'"), ({"mlp": "other"}, "without parts of others")):
        given = {
            **specs,
            "hybrid": {"weights": str(tmp_path / "target"), "parts_from": wrong},
            "other": specs["hybrid"],
        }
        with pytest.raises(SteerkitError, match=told):
            Models(given, writer="target")["hybrid"]
