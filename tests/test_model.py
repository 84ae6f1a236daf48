"""Models: blocks of every architecture, fingerprints, and loading errors in words."""

from __future__ import annotations

import shutil
from copy import deepcopy

import pytest
import torch
from oracles import blocks_of
from tiny import build, tiny, word_tokenizer

from steerkit.errors import SteerkitError
from steerkit.generation.stream import GenerationRow, generate
from steerkit.models.language_model import LanguageModel
from steerkit.models.loading import _compile, load_model, wrap_model


def test_blocks_width_and_depth(lm) -> None:
    assert list(lm.blocks) == list(blocks_of(lm.model))
    assert (lm.depth, lm.width) == (len(blocks_of(lm.model)), 16)


def test_blocks_are_found_under_peft(lora) -> None:
    assert list(lora.blocks) == list(blocks_of(lora.model))
    assert (lora.depth, lora.width) == (4, 16)


def test_a_model_without_blocks() -> None:
    class Odd(torch.nn.Module):
        def get_decoder(self) -> torch.nn.Module:
            return torch.nn.Linear(2, 2)

    with pytest.raises(SteerkitError, match="odd: Linear has no list of decoder blocks under any of layers, h, blocks"):
        _ = LanguageModel("odd", Odd(), None).blocks


def test_the_fingerprint_is_of_the_weights() -> None:
    lm = build("llama")
    assert lm.fingerprint == tiny("llama").fingerprint
    assert lm.fingerprint != build("llama", 1).fingerprint
    with torch.no_grad():
        lm.model.lm_head.weight[5, 3] += 1e-6
    assert LanguageModel("x", lm.model, None).fingerprint != tiny("llama").fingerprint
    half = LanguageModel("half", build("llama").model.to(torch.bfloat16), None)
    assert half.fingerprint != tiny("llama").fingerprint


def test_a_folder_there_and_back(tmp_path) -> None:
    tiny("llama").model.save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    lm = load_model(str(tmp_path))
    assert lm.fingerprint == tiny("llama").fingerprint
    assert not lm.model.training
    assert load_model(str(tmp_path), bf16=True).model.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "./nowhere",
            r"\./nowhere: no model folder there; give a folder with a config\.json, a \.gguf file or a hub id",
        ),
        ("nowhere.gguf", r"nowhere\.gguf: no such GGUF file"),
        ("pockt:base", "pockt:base: no model source is called 'pockt'; did you mean 'pocket'?"),
        ("someone/some-model", "someone/some-model: the model can't be loaded: .*\n.*HF_HUB_OFFLINE is set"),
    ],
)
def test_names_that_are_no_model(name: str, message: str, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SteerkitError, match=message):
        load_model(name)


def test_a_folder_that_is_no_model(tmp_path) -> None:
    with pytest.raises(SteerkitError, match=r"the folder has no config\.json, so it is no transformers model"):
        load_model(str(tmp_path))


def test_a_model_object_needs_its_tokenizer() -> None:
    model = build("llama").model
    with pytest.raises(SteerkitError, match="a model object needs its tokenizer"):
        wrap_model(model)
    assert wrap_model(model, word_tokenizer()).name == "LlamaForCausalLM"
    assert wrap_model(tiny("llama")) is tiny("llama")


def test_attention_and_number_format_as_asked(tmp_path) -> None:
    lm = tiny("llama")
    lm.model.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    expected = {"device": "cpu", "dtype": "float32", "attention": "sdpa", "batches": "padded"}
    assert load_model(str(tmp_path)).setup == expected
    asked = load_model(str(tmp_path), bf16=True, attn_implementation="eager").setup
    assert asked == {**expected, "dtype": "bfloat16", "attention": "eager"}
    with pytest.raises(SteerkitError, match="the model can't be loaded"):
        load_model(str(tmp_path), attn_implementation="flashy")


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # of the compiler
def test_a_compiled_model_writes_the_same(tmp_path) -> None:
    lm = build("llama")
    lm.model.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    rows = [GenerationRow([5, 9, 12], i) for i in range(3)]
    plain, compiled = load_model(str(tmp_path)), load_model(str(tmp_path), torch_compile=True)
    texts = [[t.ids for t in generate(m, rows, max_new_tokens=6, temperature=1.0)] for m in (plain, compiled)]
    assert texts[0] == texts[1]
    assert compiled.blocks[0].mlp._compiled_call_impl
    half = deepcopy(compiled.model).to(torch.bfloat16)
    assert half(torch.tensor([[5, 6]])).logits.dtype == torch.bfloat16


def test_what_is_not_compiled() -> None:
    lm = build("gpt2")
    for block in lm.blocks:
        del block.mlp
    with pytest.raises(SteerkitError, match="torch_compile needs blocks with an `mlp`"):
        _compile(lm)
