"""Adapters are put on whole, with their tokenizer and vocabulary, or refused in words."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_zoo import VARIANTS, WORKING, put_on, save_adapter, save_base, with_and_without
from hub_server import hub
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny import EOS, VOCABULARY, build, random_items, word_tokenizer

from steerkit.checks.adapter import has_an_effect
from steerkit.checks.outcome import Skip
from steerkit.checks.probe import make_probe
from steerkit.errors import SteerkitError
from steerkit.extraction.extract import read_layer
from steerkit.generation.stream import GenerationRow, generate
from steerkit.models.adapter_layout import adapter_state
from steerkit.models.language_model import LanguageModel
from steerkit.models.loading import load_model, wrap_model

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's
LORA = WORKING["LORA"]
IDS = torch.tensor([[5, 9, 12, 33, 7]])
BLOCK = "base_model.model.model.layers.0"
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_adapter(tmp_path_factory.mktemp("lora"))


def logits(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


def changed(adapter: str, to: Path, change: Callable[[dict[str, Any]], dict[str, Any]], **config: Any) -> str:
    """A copy of an adapter with other tensors, and other values in its configuration."""
    shutil.copytree(adapter, to)
    save_file(change(load_file(to / WEIGHTS)), to / WEIGHTS, metadata={"format": "pt"})
    told = json.loads((to / "adapter_config.json").read_text())
    (to / "adapter_config.json").write_text(json.dumps({**told, **config}))
    return str(to)


# --- tensors ---------------------------------------------------------------------------------------------------------


def renamed(old: str, new: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda tensors: {key.replace(old, new): value for key, value in tensors.items()}


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        (
            renamed("model.model.layers", "model.model.language_model.layers"),
            [
                "24 tensors are not in its file, and would be random: base_model.model.model.layers.0.",
                "24 tensors are in its file alone: base_model.model.model.language_model.layers.0.",
            ],
        ),
        (renamed("base_model.model", "base_model.model._orig_mod"), ["saved while wrapped by torch.compile"]),
        (renamed("base_model.model.", ""), ["their names lack `base_model.model.`"]),
        (renamed("base_model.model.", "base_model.model.net."), ["24 tensors are in its file alone"]),
        (
            lambda tensors: {key: value for key, value in tensors.items() if "layers.2." not in key},
            ["6 tensors are not in its file, and would be random: base_model.model.model.layers.2."],
        ),
        (
            lambda tensors: {**tensors, f"{BLOCK}.self_attn.k_proj.lora_A.weight": torch.ones(4)},
            [f"1 tensor is in its file alone: {BLOCK}.self_attn.k_proj.lora_A"],
        ),
    ],
    ids=["text tower", "compiled", "no prefix", "prefix", "a block less", "a tensor more"],
)
def test_tensors_that_do_not_match(change, messages: list[str], base: str, lora: str, tmp_path: Path) -> None:
    adapter = changed(lora, tmp_path / "a", change)
    with pytest.raises(SteerkitError, match="the adapter does not match the model") as caught:
        with_and_without(base, adapter)
    assert all(message in str(caught.value) for message in messages)


def test_a_module_that_was_to_be_saved_and_was_not(base: str, tmp_path: Path) -> None:
    whole = save_adapter(tmp_path / "whole", "LORA", {**LORA, "modules_to_save": ["lm_head"]})
    adapter = changed(whole, tmp_path / "a", lambda t: {key: value for key, value in t.items() if "lm_head" not in key})
    with pytest.raises(SteerkitError, match=r"adapter_model.safetensors lacks 'base_model.model.lm_head.weight'"):
        with_and_without(base, adapter)


def test_an_adapter_of_another_base(base: str, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "a", "LORA", LORA, build("gemma3").model)

    def narrow(tensors: dict[str, Any]) -> dict[str, Any]:
        return {key: value[:, :8].contiguous() if "lora_A" in key else value for key, value in tensors.items()}

    adapter = changed(adapter, tmp_path / "b", narrow, base_model_name_or_path="google/gemma-3")
    with pytest.raises(
        SteerkitError, match=r"does not fit .*: it was made for google/gemma-3\n  \d+ tensors of another shape"
    ):
        with_and_without(base, adapter)


def test_another_base_of_the_same_shape_is_told(base: str, lora: str, tmp_path: Path, caplog) -> None:
    adapter = changed(lora, tmp_path / "a", dict, base_model_name_or_path="some-org/another-llama")
    with_and_without(base, adapter)
    assert "says that it was made for some-org/another-llama; it is put on" in caplog.text
    caplog.clear()
    moved = changed(lora, tmp_path / "b", dict, base_model_name_or_path=f"/elsewhere/{Path(base).name}")
    with_and_without(base, moved)
    assert caplog.text == ""


# --- effect ----------------------------------------------------------------------------------------------------------


def test_an_adapter_without_effect_is_an_error(base: str, lora: str, tmp_path: Path) -> None:
    untrained = changed(lora, tmp_path / "a", lambda t: {k: v * 0 if "lora_B" in k else v for k, v in t.items()})
    with pytest.raises(SteerkitError, match="the adapter changes nothing: logits are the same with and without it"):
        with_and_without(base, untrained)
    model = put_on(build("llama").model, "LORA", LORA)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.zero_()
    with pytest.raises(SteerkitError, match="the adapter changes nothing"):
        wrap_model(model, word_tokenizer())
    with pytest.raises(Skip):
        has_an_effect(make_probe(build("llama")))
    measured = has_an_effect(make_probe(LanguageModel("x", model, word_tokenizer(), adapter=True)))
    assert measured.error > measured.tolerance


def test_an_effect_on_single_tokens_is_one(base: str, tmp_path: Path) -> None:
    options = {"token_indices": [61], "target_modules": ["embed_tokens"]}
    assert not with_and_without(base, save_adapter(tmp_path, "TRAINABLE_TOKENS", options)).same("base", "reasoning")


def test_an_adapter_that_acts_outside_the_decoder() -> None:
    model = put_on(build("llama").model, "LORA", LORA)
    model.base_model.model.register_forward_pre_hook(  # as X-LoRA and others do
        lambda module, args, kwargs: ((), {"inputs_embeds": 2 * module.get_input_embeddings()(kwargs["input_ids"])}),
        with_kwargs=True,
    )
    with pytest.raises(SteerkitError, match="acts outside the decoder that steerkit reads and steers"):
        wrap_model(model, word_tokenizer())
    measured = has_an_effect(make_probe(LanguageModel("x", model, word_tokenizer(), adapter=True)))
    assert measured.error == float("inf")


# --- on and off ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["LORA", "ADAPTION_PROMPT", "TRAINABLE_TOKENS"])
def test_each_role_inside_the_other(kind: str) -> None:
    model = put_on(build("llama").model, kind, WORKING[kind])
    reasoning, base = (LanguageModel("x", model, word_tokenizer(), adapter=on) for on in (True, False))
    on = logits(model)
    with model.disable_adapter():
        off = logits(model)
    assert not torch.equal(on, off)
    with adapter_state(base):
        with adapter_state(reasoning):
            assert torch.equal(logits(model), on)
            with adapter_state(base):
                assert torch.equal(logits(model), off)
            assert torch.equal(logits(model), on)
        assert torch.equal(logits(model), off)
    assert torch.equal(logits(model), on)
    item = random_items(1)[0]
    with adapter_state(base):
        states = [next(read_layer(lm, [item], 3))[1] for lm in (reasoning, base, reasoning)]
    assert torch.equal(states[0], states[2]) and not torch.equal(states[0], states[1])


def test_biases_that_stay_make_the_base_load_by_itself(tmp_path: Path, caplog) -> None:
    base = save_base(tmp_path / "base", "qwen2")
    adapter = save_adapter(tmp_path / "a", "LORA", {**LORA, "bias": "all"}, build("qwen2").model)
    pair = with_and_without(base, adapter)
    assert "base is loaded a second time" in caplog.text
    assert pair["base"].model is not pair["reasoning"].model
    assert pair["base"].fingerprint == build("qwen2").fingerprint
    theirs = PeftModel.from_pretrained(build("qwen2").model, adapter)
    torch.testing.assert_close(logits(pair["reasoning"].model), logits(theirs), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(logits(pair["base"].model), logits(build("qwen2").model), rtol=1e-3, atol=1e-3)


# --- tokenizer and vocabulary ----------------------------------------------------------------------------------------


TEMPLATE = "<s>{% for m in messages %}{{ m['content'] }}{% endfor %} wait"


def test_the_tokenizer_beside_an_adapter_is_the_reasoning_models(base: str, lora: str, tmp_path: Path) -> None:
    adapter = changed(lora, tmp_path / "a", dict)
    own = load_model(base, adapter=adapter).tokenizer
    assert own.chat_template is None
    (tmp_path / "a" / "chat_template.jinja").write_text(TEMPLATE)
    pair = with_and_without(base, adapter)
    assert (pair["reasoning"].tokenizer.chat_template, pair["base"].tokenizer.chat_template) == (TEMPLATE, None)
    assert pair["reasoning"].tokenizer.get_vocab() == pair["base"].tokenizer.get_vocab()
    other = word_tokenizer()
    other.chat_template = TEMPLATE.replace("wait", "hmm")
    try:
        other.save_pretrained(tmp_path / "a")
    finally:
        other.chat_template = None
    assert with_and_without(base, adapter)["reasoning"].tokenizer.chat_template.endswith("hmm")


def grown(folder: Path, **options: Any) -> tuple[str, Any]:
    """An adapter for two more tokens, its tokenizer beside it, and the model that it makes."""
    model = build("llama").model
    model.resize_token_embeddings(VOCABULARY + 2, mean_resizing=False)
    wrapped = put_on(model, "LORA", {**LORA, **options})
    wrapped.save_pretrained(folder, save_embedding_layers=True)
    tokenizer = word_tokenizer(("<tool>",))  # the words, <unk> and one more
    tokenizer.save_pretrained(folder)
    return str(folder), wrapped


@pytest.mark.parametrize("options", [{}, {"modules_to_save": ["embed_tokens", "lm_head"]}], ids=["saved", "trained"])
def test_a_larger_vocabulary(options: dict[str, Any], base: str, tmp_path: Path) -> None:
    adapter, made = grown(tmp_path / "a", **options)
    id_map = {VOCABULARY: 5, VOCABULARY + 1: 6}
    plain = load_model(base)
    pair = with_and_without(base, adapter, id_map)
    assert pair["reasoning"].model.get_input_embeddings().weight.shape[0] == VOCABULARY + 2
    assert (len(pair["reasoning"].tokenizer), len(pair["base"].tokenizer)) == (VOCABULARY + 2, VOCABULARY + 1)
    ids = torch.tensor([[5, VOCABULARY + 1, 12, VOCABULARY, 7]])
    torch.testing.assert_close(logits(pair["reasoning"].model, ids), logits(made, ids), rtol=1e-3, atol=1e-3)
    assert torch.equal(logits(pair["base"].model), logits(plain.model))
    assert pair["base"].fingerprint == plain.fingerprint
    row = [GenerationRow(IDS[0].tolist(), 0)]
    texts = [generate(lm, row, max_new_tokens=4, temperature=0)[0].ids for lm in (pair["base"], plain)]
    assert texts[0] == texts[1]
    assert with_and_without(base, adapter, id_map)["reasoning"].fingerprint == pair["reasoning"].fingerprint
    with pytest.raises(SteerkitError, match="the tokenizers of reasoning and base disagree on 1 ids"):
        with_and_without(base, adapter)


@pytest.mark.parametrize(
    ("targets", "known"), [(["embed_tokens", "lm_head", "q_proj"], True), (["embed_tokens", "q_proj"], False)]
)
def test_a_larger_vocabulary_under_lora(targets: list[str], known: bool, base: str, tmp_path: Path) -> None:
    adapter, made = grown(tmp_path / "a", target_modules=targets)
    if known:
        ids = torch.tensor([[5, VOCABULARY + 1, 12, VOCABULARY, 7]])
        found = load_model(base, adapter=adapter)
        torch.testing.assert_close(logits(found.model, ids), logits(made, ids), rtol=1e-3, atol=1e-3)
    else:
        with pytest.raises(SteerkitError, match="has a vocabulary of 66 tokens, and lacks the rows"):
            load_model(base, adapter=adapter)


def test_new_tokens_that_were_trained_by_themselves(base: str, tmp_path: Path) -> None:
    options = {**LORA, "trainable_token_indices": [VOCABULARY, VOCABULARY + 1]}

    def model(tied: bool) -> Any:
        found = build("llama").model
        found.config.tie_word_embeddings = tied
        found.tie_weights()
        return found

    def larger(tied: bool) -> Any:
        found = model(tied)
        found.resize_token_embeddings(VOCABULARY + 2, mean_resizing=False)
        return found

    for tied in (True, False):
        folder = tmp_path / f"base {tied}"
        model(tied).save_pretrained(folder)
        word_tokenizer().save_pretrained(folder)
        adapter = save_adapter(tmp_path / f"a {tied}", "LORA", options, larger(tied))
        if tied:
            ids = torch.tensor([[5, VOCABULARY + 1, 12, VOCABULARY, 7]])
            theirs = PeftModel.from_pretrained(larger(tied), adapter)
            found = load_model(str(folder), adapter=adapter).model
            torch.testing.assert_close(logits(found, ids), logits(theirs, ids), rtol=1e-3, atol=1e-3)
            assert not any(weight.isnan().any() for weight in found.parameters())
        else:  # the head's rows of the new tokens were never saved
            with pytest.raises(SteerkitError, match="has a vocabulary of 66 tokens, and lacks the rows"):
                load_model(str(folder), adapter=adapter)


def test_a_larger_vocabulary_without_the_new_rows_of_the_head(base: str, tmp_path: Path) -> None:
    adapter, _ = grown(tmp_path / "a")
    cut = changed(adapter, tmp_path / "b", lambda t: {k: v for k, v in t.items() if "lm_head" not in k})
    with pytest.raises(SteerkitError, match=r"has a vocabulary of 66 tokens, and lacks the rows of the new ones"):
        with_and_without(base, cut)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ('{"peft_type": "BONE"}', "a BONE adapter can't be used: steerkit was never tried with it"),
        ('{"r": 4}', r"its adapter_config\.json names no peft_type, so it is no adapter"),
        ("{", "can't be loaded"),
        (None, r"there is no adapter_config\.json, so it is no adapter"),
    ],
)
def test_what_is_no_adapter(told: str | None, message: str, base: str, tmp_path: Path) -> None:
    if told:
        (tmp_path / "adapter_config.json").write_text(told)
    with pytest.raises(SteerkitError, match=message):
        with_and_without(base, str(tmp_path))


# --- folders that are something else ---------------------------------------------------------------------------------


def test_an_adapter_named_as_a_model(base: str, lora: str, tmp_path: Path) -> None:
    with pytest.raises(SteerkitError, match="this is an adapter, not a model: name the model that it was made for"):
        load_model(lora)
    both = shutil.copytree(base, tmp_path / "both")
    shutil.copytree(lora, both, dirs_exist_ok=True)
    with pytest.raises(SteerkitError, match=r"a whole model with an adapter in it; move adapter_config\.json"):
        load_model(str(both))


PLACES = {
    "model.embed_tokens": "cpu",
    "model.layers.0": "cpu",
    "model.layers.1": "disk",
    "model.layers.2": "disk",
    "model.layers.3": "cpu",
    "model.norm": "cpu",
    "model.rotary_emb": "cpu",
    "lm_head": "cpu",
}


def test_an_offloaded_model_takes_lora_and_refuses_what_would_be_wrong(
    base: str, lora: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # PEFT leaves a copy of the weights in a folder below the current one
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    expected = logits(load_model(base, adapter=lora).model)
    there: Any = PLACES
    torch.testing.assert_close(logits(load_model(base, adapter=lora, device_map=there).model), expected)
    for kind, options in (("LOHA", WORKING["LOHA"]), ("LORA", {**LORA, **VARIANTS["DoRA"]})):
        adapter = save_adapter(tmp_path / kind, kind, options)
        with pytest.raises(
            SteerkitError, match=f"a {kind} adapter with these options can't be used where weights are offl"
        ):
            load_model(base, adapter=adapter, device_map=there)


def test_frod_is_refused_in_half_precision(base: str, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path, "FROD", WORKING["FROD"])
    with pytest.raises(SteerkitError, match="FROD's bases lose their meaning in half precision"):
        load_model(base, adapter=adapter, bf16=True)


def test_several_adapters(tmp_path: Path) -> None:
    model = put_on(build("llama").model, "LORA", LORA)
    second = save_adapter(tmp_path, "LORA", LORA, build("llama").model)
    model.load_adapter(second, "second")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B.second" in name:
                weight.mul_(-1)
    lm = LanguageModel("x", model, word_tokenizer(), adapter=True)
    prints, texts = set(), []
    for name in ("default", "second"):
        model.set_adapter(name)
        prints.add(lm.fingerprint)
        texts.append(generate(lm, [GenerationRow([5, 9, 12], 0)], max_new_tokens=6, temperature=0)[0].ids)
        expected, ids = IDS[:, :3].clone(), [5, 9, 12]
        for _ in range(6):
            expected = logits(model, torch.tensor([ids]))[0, -1].argmax()
            ids.append(int(expected))
        own = ids[3:]
        assert texts[-1] == (own[: own.index(EOS)] if EOS in own else own)
    assert len(prints) == 2 and texts[0] != texts[1]
    assert LanguageModel("b", model, word_tokenizer()).fingerprint == build("llama").fingerprint


def test_a_dry_run_knows_what_can_not_be_used(base: str, lora: str, tmp_path: Path) -> None:
    from steerkit.planning.plan import plan_text
    from steerkit.recipe.load import load_recipe

    prompts = save_adapter(tmp_path, "PROMPT_TUNING", {"num_virtual_tokens": 3})
    for adapter, said in ((prompts, "a PROMPT_TUNING adapter can't be used"), (lora, "4 blocks × 16")):
        models = {"base": {"weights": base}, "reasoning": {"weights": base, "adapter": adapter}}
        recipe = load_recipe("backtracking", [f"models={json.dumps(models)}"])
        if adapter == lora:
            assert said in plan_text(recipe)
        else:
            with pytest.raises(SteerkitError, match=said):
                plan_text(recipe)


def test_an_adapter_on_the_hub(base: str, lora: str, tmp_path: Path) -> None:
    code = (
        f"import warnings; warnings.simplefilter('ignore')\nfrom steerkit import load_models\n"
        f"pair = load_models({{'x': {{'weights': {base!r}, 'adapter': 'me/lora'}}}})\n"
        f"print(pair['x'].tokenizer.chat_template, pair['x'].fingerprint)"
    )
    with hub() as server:
        server.repos["me/lora"] = {"main": {file.name: file.read_bytes() for file in Path(lora).iterdir()}}
        server.repos["me/lora"]["main"]["chat_template.jinja"] = TEMPLATE.encode()
        env = {**os.environ, "HF_ENDPOINT": server.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert done.stdout.splitlines()[-1] == f"{TEMPLATE} {load_model(base, adapter=lora).fingerprint}", done.stderr


def test_kinds_that_are_not_merged_or_offloaded_are_skipped_by_the_check() -> None:
    from steerkit.checks.suite import CHECKS, run_checks

    model = put_on(build("llama").model, "ADAPTION_PROMPT", WORKING["ADAPTION_PROMPT"])
    lm = LanguageModel("x", model, word_tokenizer(), adapter=True)
    outcomes = {o.name: o for o in run_checks(make_probe(lm), CHECKS)}
    assert [str(o) for o in outcomes.values() if o.passed is False] == []
    assert "PEFT can't merge this adapter into the weights" in outcomes["wrapped = merged"].detail
    assert "where weights are offloaded" in outcomes["dispatched = whole"].detail
    assert outcomes["adapter has an effect"].passed
