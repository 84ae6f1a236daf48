"""Weights that are not the model's are refused, with the tensors' names and the likely reason: none are random."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_zoo import save_base
from console import Steerkit
from safetensors.torch import load_file, save_file
from tiny import build, word_tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.utils import logging as hf_logging
from zoo import breed

from steerkit.checks.outcome import Check
from steerkit.checks.probe import make_probe
from steerkit.checks.suite import run_checks
from steerkit.checks.weights import weights_are_complete
from steerkit.errors import SteerkitError
from steerkit.models import loaded_weights
from steerkit.models.loading import load_model, wrap_model

FILE = "model.safetensors"
Change = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(save_base(tmp_path_factory.mktemp("whole")))


def damaged(folder: Path, to: Path, change: Change = dict, **config: Any) -> str:
    """A copy of a model's folder with other tensors, and other values in its config.json."""
    shutil.copytree(folder, to)
    save_file(change(load_file(to / FILE)), to / FILE, metadata={"format": "pt"})
    told = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps({**told, **config}))
    return str(to)


def renamed(old: str, new: str) -> Change:
    return lambda tensors: {key.replace(old, new, 1): value for key, value in tensors.items()}


def without(part: str) -> Change:
    return lambda tensors: {key: value for key, value in tensors.items() if part not in key}


def named(prefix: str) -> Change:
    return lambda tensors: {prefix + key: value for key, value in tensors.items()}


DAMAGES: dict[str, tuple[Change, dict[str, Any], list[str]]] = {
    "compiled": (
        named("_orig_mod."),
        {},
        [
            "39 tensors are missing, and would be random: lm_head.weight, model.embed_tokens.weight, ",
            "39 tensors are unknown to the model: _orig_mod.lm_head.weight",
            "their names hold `_orig_mod.`: they were saved while wrapped by torch.compile",
        ],
    ),
    "data parallel": (named("module."), {}, ["they were saved while wrapped by DistributedDataParallel or DeepSpeed"]),
    "FSDP": (
        renamed("layers.0", "layers.0._fsdp_wrapped_module"),
        {},
        ["9 tensors are missing", "they were saved while wrapped by FSDP"],
    ),
    "another module": (named("net."), {}, ["their names begin with `net.`: they were saved from another module"]),
    "a block less": (
        without("layers.2."),
        {},
        [
            "9 tensors are missing, and would be random: model.layers.2.input_layernorm.weight",
            "block 2 is not in the files",
        ],
    ),
    "a block more": (dict, {"num_hidden_layers": 5}, ["the configuration has 5 blocks, the weights have 4"]),
    "blocks left over": (
        dict,
        {"num_hidden_layers": 3},
        ["9 tensors are unknown to the model: model.layers.3.", "the configuration has 3 blocks, the weights have 4"],
    ),
    "no head": (
        without("lm_head"),
        {},
        ["1 tensor is missing, and would be random: lm_head.weight", "tie_word_embeddings"],
    ),
    "biases left over": (
        lambda tensors: {**tensors, "model.layers.0.self_attn.q_proj.bias": torch.ones(16)},
        {},
        ["1 tensor is unknown to the model: model.layers.0.self_attn.q_proj.bias"],
    ),
    "wider": (
        dict,
        {"intermediate_size": 32},
        [
            "12 tensors are of another shape: model.layers.0.mlp.down_proj.weight is 16 × 24 and not 16 × 32",
            "config.json is another model's, or was edited",
        ],
    ),
    "more words": (dict, {"vocab_size": 70}, ["lm_head.weight is 64 × 16 and not 70 × 16"]),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_refused(name: str, whole: Path, tmp_path: Path, caplog) -> None:
    change, config, messages = DAMAGES[name]
    folder = damaged(whole, tmp_path / "m", change, **config)
    with pytest.raises(SteerkitError, match="weights are not those of the LlamaForCausalLM that its conf") as caught:
        load_model(folder)
    assert [message for message in messages if message not in str(caught.value)] == []
    assert "LOAD REPORT" not in caplog.text


@pytest.mark.parametrize("places", ["cpu", "auto", "offloaded"])
def test_device_maps_change_nothing(places: str, whole: Path, tmp_path: Path) -> None:
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    on_disk: Any = {
        "model.embed_tokens": "cpu",
        "model.layers": "disk",
        "model.norm": "cpu",
        "model.rotary_emb": "cpu",
        "lm_head": "cpu",
    }
    given = on_disk if places == "offloaded" else places
    assert load_model(str(whole), device_map=given).fingerprint == build("llama").fingerprint
    with pytest.raises(SteerkitError, match="block 2 is not in the files"):
        load_model(damaged(whole, tmp_path / "m", without("layers.2.")), device_map=given)


def test_a_mixture_of_experts_that_lacks_one(tmp_path: Path) -> None:
    lm = breed("mixtral")
    lm.model.save_pretrained(tmp_path / "whole")
    lm.tokenizer.save_pretrained(tmp_path / "whole")
    assert load_model(str(tmp_path / "whole")).fingerprint == lm.fingerprint
    key = next(key for key in load_file(tmp_path / "whole" / FILE) if "experts.2" in key)
    folder = damaged(tmp_path / "whole", tmp_path / "m", lambda t: {**t, key: t[key][:-1].contiguous()})
    for verbosity in (hf_logging.WARNING, hf_logging.ERROR):  # transformers' report is read, shown or not
        hf_logging.set_verbosity(verbosity)
        try:
            with pytest.raises(SteerkitError, match=r"not stored as this model needs them: model\.layers\.0"):
                load_model(folder)
        finally:
            hf_logging.set_verbosity_warning()


EXTRA = {
    "vision_tower.encoder.layers.0.mlp.fc1.weight": "another modality's encoder",
    "mtp.layers.0.weight": "heads that predict further tokens",
    "v_head.summary.weight": "a value or classification head",
}


def test_what_a_text_model_does_without_is_listed_once(whole: Path, tmp_path: Path, caplog) -> None:
    folder = damaged(whole, tmp_path / "m", lambda t: {**t, **{key: torch.ones(2) for key in EXTRA}})
    lm = load_model(folder)
    assert lm.fingerprint == build("llama").fingerprint
    assert sorted(record.getMessage() for record in caplog.records) == sorted(
        f"{folder}: 1 tensor is left out: {what}" for what in EXTRA.values()
    )


def test_blocks_that_predict_further_tokens_are_left_out(whole: Path, tmp_path: Path) -> None:
    config = {"num_hidden_layers": 3, "num_nextn_predict_layers": 1}
    assert load_model(damaged(whole, tmp_path / "m", **config)).depth == 3


def test_tied_heads_are_whole_without_one(tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        tie_word_embeddings=True,
    )
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / FILE)
    assert load_model(str(tmp_path)).depth == 2


# --- files -----------------------------------------------------------------------------------------------------------


def sharded(whole: Path, to: Path) -> Path:
    shutil.copytree(whole, to)
    (to / FILE).unlink()
    tensors = load_file(whole / FILE)
    names = sorted(tensors)
    parts = {"model-1.safetensors": names[:20], "model-2.safetensors": names[20:]}
    for file, own in parts.items():
        save_file({name: tensors[name] for name in own}, to / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, own in parts.items() for name in own}}
    (to / f"{FILE}.index.json").write_text(json.dumps(index))
    return to


def test_shards(whole: Path, tmp_path: Path) -> None:
    folder = sharded(whole, tmp_path / "m")
    assert load_model(str(folder)).fingerprint == build("llama").fingerprint
    second = folder / "model-2.safetensors"
    kept = load_file(second)
    kept.pop("model.norm.weight")
    save_file(kept, second, metadata={"format": "pt"})
    with pytest.raises(SteerkitError, match=r"1 tensor is missing, and would be random: model.norm.weight"):
        load_model(str(folder))
    second.write_bytes(second.read_bytes()[:1000])
    with pytest.raises(
        SteerkitError, match=r"model-2\.safetensors is damaged or was cut off .*\n  fetch the files again"
    ):
        load_model(str(folder))
    second.unlink()
    with pytest.raises(
        SteerkitError, match=r"1 of 2 weight files are missing: model-2\.safetensors\n  fetch the files"
    ):
        load_model(str(folder))
    (folder / f"{FILE}.index.json").write_text("{")
    with pytest.raises(SteerkitError, match=r"model\.safetensors\.index\.json can't be read"):
        load_model(str(folder))
    (folder / f"{FILE}.index.json").unlink()
    with pytest.raises(
        SteerkitError, match=r"the folder has no model\.safetensors, nor model\.saf.*\n  fetch the files again"
    ):
        load_model(str(folder))


@pytest.mark.parametrize("content", [b"", b"\x10\0\0\0\0\0\0\0{}", b"x" * 100])
def test_a_damaged_file(content: bytes, whole: Path, tmp_path: Path, steerkit: Steerkit) -> None:
    shutil.copytree(whole, tmp_path / "m")
    (tmp_path / "m" / FILE).write_bytes(content)
    done = steerkit("check", tmp_path / "m")
    assert (done.returncode, done.stderr.count("model.safetensors is damaged or was cut off")) == (2, 1)


# --- models in memory, and the check ---------------------------------------------------------------------------------


def test_a_model_without_values() -> None:
    from accelerate import init_empty_weights

    with init_empty_weights():
        empty = AutoModelForCausalLM.from_config(build("llama").config)
    with pytest.raises(
        SteerkitError, match=r"39 tensors are without values \(on the device `meta`\): .*; load the weights"
    ):
        wrap_model(empty, word_tokenizer())


def test_the_check_finds_random_weights_by_itself(monkeypatch, whole: Path, tmp_path: Path) -> None:
    check = Check("weights complete", weights_are_complete)

    def measured(folder: str) -> Any:
        lm = load_model(folder)
        return run_checks(make_probe(lm, again=lambda: load_model(folder)), [check])[0]

    assert (measured(str(whole)).error, measured(str(whole)).verdict) == (0, "pass")
    monkeypatch.setattr(loaded_weights, "check_loaded", lambda name, model, info: None)
    found = measured(damaged(whole, tmp_path / "m", without("layers.2.mlp")))
    assert (found.error, found.verdict) == (3, "FAIL")
    assert "model.layers.2.mlp" in found.detail
    assert run_checks(make_probe(build("llama")), [check])[0].verdict == "skipped"
