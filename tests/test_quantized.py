"""Quantised weights: read as they are, named, or refused; never skipped, and no row depends on its neighbours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from console import Steerkit
from families import compare_reads, compare_texts
from safetensors.torch import load_file, save_file
from test_families_runs import run
from tiny import SIZES, word_tokenizer
from zoo import breed, shake

import steerkit as sk
from steerkit.checks.probe import ADD, make_probe
from steerkit.checks.suite import run_checks
from steerkit.errors import SteerkitError
from steerkit.generation.stream import GenerationRow, generate
from steerkit.interventions.steering import Edit
from steerkit.models import quantized
from steerkit.models.language_model import LanguageModel
from steerkit.models.loading import load_model, wrap_model

WIDE = {**SIZES, "hidden_size": 64, "intermediate_size": 128, "head_dim": 32, "num_hidden_layers": 3}
IDS = torch.tensor([[5, 9, 12, 30, 7]])
FLOAT8 = "Float8DynamicActivationFloat8WeightConfig"
quiet = pytest.mark.filterwarnings("ignore")  # of the quantisers, and of peft


def plain(vocabulary: int = 64, seed: int = 0) -> Any:
    """A Llama wide enough to be quantised in groups of 32."""
    torch.manual_seed(seed)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**WIDE, "vocab_size": vocabulary})).eval()
    shake(model)
    return model


def saved(model: Any, folder: Path, tokenizer: Any = None) -> Path:
    model.save_pretrained(folder)
    (tokenizer or word_tokenizer()).save_pretrained(folder)
    return folder


def with_settings(folder: Path, settings: Any, where: str = "") -> Path:
    """The checkpoint's config.json says that it is quantised so."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    (config[where] if where else config)["quantization_config"] = settings
    path.write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"quant_method": "fancy3", "bits": 3}, r"its weights are quantised by fancy3 .*it knows aqlm, .*torchao"),
        ({"bits": 4}, "its weights are quantised by a method without a name"),
        ({"quant_method": "gptq", "bits": 4}, "pip install optimum|gptqmodel|quantised by gptq, can't be read here"),
        ({"quant_method": "awq", "bits": 4}, "gptqmodel"),
        ({"quant_method": "aqlm"}, "aqlm"),
    ],
)
def test_what_nothing_reads_is_refused(settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    folder = with_settings(saved(plain(), tmp_path / "m"), settings)
    with pytest.raises(SteerkitError, match=said):
        load_model(str(folder))


def test_a_towers_text_model_says_it(tmp_path: Path) -> None:
    from towers import save, whole

    folder = with_settings(save(whole("llava"), tmp_path / "m"), {"quant_method": "fancy3"}, "text_config")
    with pytest.raises(SteerkitError, match="its weights are quantised by fancy3"):
        load_model(str(folder))


@quiet
def test_a_tower_with_packed_weights(tmp_path: Path) -> None:
    """bitsandbytes packs a multimodal checkpoint whole; its text model is read out of it, and says so."""
    pytest.importorskip("bitsandbytes", reason="pip install 'steerkit-hf[quantized]'")
    from towers import TOWERS, save

    config = TOWERS["mistral3"]()
    for key, value in WIDE.items():
        setattr(config.text_config, key, value)
    torch.manual_seed(0)
    model = transformers.AutoModelForImageTextToText.from_config(config).eval()
    four = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
    whole = save(model, tmp_path / "whole")
    packed = transformers.AutoModelForImageTextToText.from_pretrained(
        whole, quantization_config=four, dtype=torch.float32
    )
    folder = str(save(packed, tmp_path / "m"))
    lm = load_model(folder)
    assert type(lm.model).__name__ == "MistralForCausalLM" and lm.quantized == "bitsandbytes, 4 bits, fp4"
    assert type(lm.blocks[0].mlp.up_proj).__name__ == "Linear4bit"
    again = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    quantized.keep_layout(again)
    with torch.no_grad():
        torch.testing.assert_close(lm.model(input_ids=IDS).logits, again(input_ids=IDS).logits)
    assert compare_texts(lm) == (12, 12)


def test_a_text_model_keeps_what_its_weights_are() -> None:
    from towers import whole

    model = whole("gemma3")
    model.config.quantization_config = {"load_in_8bit": True}
    lm = wrap_model(model, word_tokenizer())
    assert (lm.quantized, lm.batches) == ("bitsandbytes, 8 bits", "alone")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU reads FP8 as it is")
def test_fp8_is_unpacked_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = plain()
    folder = saved(model, tmp_path / "m")
    packed, unpacked = {}, {}
    for key, value in load_file(folder / "model.safetensors").items():
        packed[key] = unpacked[key] = value
        if value.dim() == 2 and "layers" in key:
            rows, columns = (size // 32 for size in value.shape)
            scale = value.reshape(rows, 32, columns, 32).abs().amax((1, 3)) / 448
            each = scale.repeat_interleave(32, 0).repeat_interleave(32, 1)
            packed[key], packed[f"{key}_scale_inv"] = (value / each).to(torch.float8_e4m3fn), scale
            unpacked[key] = packed[key].float() * each
    save_file(packed, folder / "model.safetensors", metadata={"format": "pt"})
    with_settings(folder, {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [32, 32]})
    with caplog.at_level("WARNING", logger="steerkit"):
        lm = load_model(str(folder))
    assert f"{folder}: its weights are stored as fp8 and were unpacked to torch.float32" in caplog.messages
    model.load_state_dict(unpacked)
    with torch.no_grad():
        torch.testing.assert_close(lm.model(input_ids=IDS).logits, model(input_ids=IDS).logits)
    assert lm.quantized == "" and lm.batches == "padded"


@pytest.mark.parametrize(
    ("settings", "words", "mixes", "eps"),
    [
        (None, "", False, 0.0),
        ({"load_in_8bit": True}, "bitsandbytes, 8 bits", True, 1 / 127),
        ({"load_in_8bit": True, "llm_int8_threshold": 0.0}, "bitsandbytes, 8 bits", False, 1 / 127),
        (
            {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "bfloat16"},
            "bitsandbytes, 4 bits, nf4",
            False,
            2**-7,
        ),
        ({"quant_method": "gptq", "bits": 4}, "gptq, 4 bits", False, 0.0),
        ({"quant_method": "gguf", "gguf_file": "/somewhere/model.gguf"}, "", False, 0.0),  # unpacked as it was read
        ({"quant_method": "fp8"}, "fp8", False, 1 / 8),
        ({"quant_method": "fp8", "dequantize": True}, "", False, 0.0),
        ({"quant_method": "torchao", "quant_type": {"default": {"_type": FLOAT8}}}, f"torchao, {FLOAT8}", True, 1 / 8),
        (
            {
                "quant_method": "compressed-tensors",
                "format": "float-quantized",
                "config_groups": {"g": {"input_activations": {"dynamic": True, "strategy": "tensor"}}},
            },
            "compressed-tensors, float-quantized",
            True,
            1 / 127,
        ),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"g": {"input_activations": None}}},
            "compressed-tensors",
            False,
            0.0,
        ),
    ],
)
def test_what_settings_mean(settings: Any, words: str, mixes: bool, eps: float) -> None:
    model = breed("llama").model
    if settings:
        model.config.quantization_config = settings
    assert (quantized.in_words(model), quantized.mixes_rows(model)) == (words, mixes)
    assert quantized.arithmetic_eps(model) == eps
    lm = LanguageModel("x", model, word_tokenizer())
    assert lm.batches == ("alone" if mixes else "padded")
    assert (lm.fingerprint == breed("llama").fingerprint) == (not words)
    assert ("quantized" in lm.setup) == bool(words)


def packed_model(kind: str, folder: Path, vocabulary: int = 64, seed: int = 0, tokenizer: Any = None) -> Path:
    """A checkpoint that was quantised and saved."""
    whole = saved(plain(vocabulary, seed), folder.with_name(folder.name + "-whole"))
    config: Any
    if kind.startswith("bnb"):
        pytest.importorskip("bitsandbytes", reason="pip install 'steerkit-hf[quantized]'")
        four = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}
        config = transformers.BitsAndBytesConfig(**four if kind == "bnb4" else {"load_in_8bit": True})
    else:
        ao: Any = pytest.importorskip("torchao.quantization", reason="pip install 'steerkit-hf[quantized]'")
        from torchao.quantization.granularity import PerGroup

        int4 = {"weight_dtype": torch.int4, "granularity": PerGroup(32)}
        kinds = {"ao8": lambda: ao.Int8WeightOnlyConfig(), "ao4": lambda: ao.IntxWeightOnlyConfig(**int4)}
        config = transformers.TorchAoConfig(kinds[kind]())
    model = transformers.AutoModelForCausalLM.from_pretrained(whole, quantization_config=config, dtype=torch.float32)
    return saved(model, folder, tokenizer)


@quiet
@pytest.mark.parametrize("kind", ["bnb4", "ao8", "ao4"])
def test_packed_weights_are_read_and_steered(kind: str, tmp_path: Path) -> None:
    lm = load_model(str(packed_model(kind, tmp_path / "m")))
    assert lm.quantized.startswith("bitsandbytes" if kind == "bnb4" else "torchao")
    assert (lm.dtype, lm.batches) == (torch.float32, "padded")
    assert compare_reads(lm) <= 1e-6
    assert compare_texts(lm) == (12, 12)
    outcomes = run_checks(make_probe(lm))
    assert [str(o) for o in outcomes if o.passed is False] == []
    assert {o.name for o in outcomes if o.passed is None} == {"dispatched = whole", "half = float32"}


@quiet
def test_reading_4_bit_weights_leaves_them(tmp_path: Path) -> None:
    """bitsandbytes repacks them at a forward on some CPUs, and its way back, in `state_dict`, breaks them."""
    folder = str(packed_model("bnb4", tmp_path / "m"))
    lm, again = load_model(folder), load_model(folder)
    logits, prints = [], []
    for _ in range(3):
        prints.append(LanguageModel("x", lm.model, lm.tokenizer).fingerprint)
        with torch.no_grad():
            logits.append(lm.model(input_ids=IDS).logits)
    assert len({*prints, again.fingerprint}) == 1
    assert all(torch.equal(logits[0], other) for other in logits)


@quiet
def test_repacked_4_bit_weights_are_refused(tmp_path: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(packed_model("bnb4", tmp_path / "m"))
    layer = model.model.layers[0].mlp.up_proj
    layer.weight.quant_state.packing_format_for_cpu = True  # as a forward leaves it on CPUs with AVX512-BF16
    with pytest.raises(SteerkitError, match="bitsandbytes has repacked its 4-bit weights for this CPU"):
        _ = wrap_model(model, word_tokenizer()).fingerprint


@quiet
def test_rows_of_int8_models_are_run_alone(tmp_path: Path) -> None:
    lm = load_model(str(packed_model("bnb8", tmp_path / "m")))
    assert lm.setup["batches"] == "alone" and lm.quantized == "bitsandbytes, 8 bits"
    draws = torch.nn.functional.normalize(torch.randn(6, 64, generator=torch.Generator().manual_seed(0)), dim=1)
    rows = [
        GenerationRow([5 + n, 9, 12, 30 + n, 7][: 3 + n % 3], n, (Edit(ADD, n % 3, 9.0, draw),))
        for n, draw in enumerate(draws)
    ]
    together = [text.ids for text in generate(lm, rows, max_new_tokens=5, temperature=1.0, batch_size=6)]
    assert together == [generate(lm, [row], max_new_tokens=5, temperature=1.0)[0].ids for row in rows]
    assert compare_reads(lm) <= 1e-6
    outcomes = run_checks(make_probe(lm))
    assert [str(o) for o in outcomes if o.passed is False] == []
    assert {o.name for o in outcomes if o.passed is None} == {
        "left-padded = alone",
        "dispatched = whole",
        "half = float32",
    }


@pytest.mark.parametrize("kind", ["bnb4", "ao8"])
def test_a_whole_run(kind: str, steerkit: Steerkit, tmp_path: Path) -> None:
    tokenizer = sk.load_model("pocket:base").tokenizer
    base, reasoning = (
        packed_model(kind, tmp_path / name, 255, seed, tokenizer) for seed, name in enumerate(("base", "reasoning"))
    )
    out = run(steerkit, base, reasoning, tmp_path / "run")
    logged = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    words = {"bnb4": "bitsandbytes, 4 bits, nf4", "ao8": "torchao, Int8WeightOnlyConfig"}[kind]
    assert {row["quantized"] for row in logged if "batch_size" in row} == {words}
    assert f"weights quantised: {words}" in (out / "report.html").read_text(encoding="utf-8")
