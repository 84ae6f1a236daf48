"""`steerkit check`: the table, the figures, exit codes, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from console import Steerkit
from tiny import word_tokenizer
from zoo import breed

import steerkit as package
from steerkit.checks.report import as_markdown
from steerkit.checks.suite import CHECKS

DOCS = Path(package.__file__).parents[1] / "docs" / "checks.md"
quiet = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft 0.21's


def saved(folder: Path, model: transformers.PreTrainedModel) -> Path:
    model.save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


@quiet
def test_a_sound_model(steerkit: Steerkit, tmp_path: Path) -> None:
    done = steerkit("check", "pocket:base", "--json", "out.json", "--layers", "0-1,3", "--prompts", 3, "--seed", 5)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{len(CHECKS) - 1} passed, 0 failed, 1 skipped" in done.stdout
    told = json.loads((tmp_path / "out.json").read_text())
    for part in (told["fingerprint"], "float32", f"torch {torch.__version__}", "seed 5; layers 0, 1, 3", "threads"):
        assert part in done.stdout
    assert [row["name"] for row in told["checks"]] == [check.name for check in CHECKS]
    measured = [row for row in told["checks"] if row["name"] != "adapter has an effect"]  # there is none
    assert all(row["passed"] and row["error"] <= row["tolerance"] for row in measured)
    assert (told["layers"], told["seed"], len(told["prompts"])) == ([0, 1, 3], 5, 3)


@quiet
def test_options_reach_the_model(steerkit: Steerkit, tmp_path: Path, lora) -> None:
    base = saved(tmp_path / "base", breed("llama").model)
    lora.model.save_pretrained(tmp_path / "adapter")
    done = steerkit("check", base, "--adapter", tmp_path / "adapter", "--bf16", "--device-map", "cpu")
    assert done.returncode == 0
    assert "bfloat16" in done.stdout and f"{len(CHECKS) - 4} passed, 0 failed, 4 skipped" in done.stdout
    assert "a device map was given" in done.stdout and f"{base}+{tmp_path / 'adapter'}: LlamaFor" in done.stdout


@quiet
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # of the compiler
def test_another_attention_and_compiled_parts(steerkit: Steerkit, tmp_path: Path) -> None:
    model = saved(tmp_path / "m", breed("llama").model)
    done = steerkit("check", model, "--attn-implementation", "eager", "--torch-compile")
    assert "eager attention" in done.stdout
    assert f"{len(CHECKS) - 1} passed, 0 failed, 1 skipped" in done.stdout
    wrong = steerkit("check", model, "--attn-implementation", "sparse")
    assert wrong.returncode == 2 and "Traceback" not in wrong.stderr
    assert wrong.stderr.startswith(f"error: {model}: the model can't be loaded: ") and "sparse" in wrong.stderr


@quiet
def test_a_failure_ends_with_one_and_says_what_it_means(steerkit: Steerkit, tmp_path: Path, monkeypatch) -> None:
    from steerkit.checks.probe import Add

    monkeypatch.setattr(Add, "edit", lambda self, hidden, at: hidden + at.norm.abs() * at.direction)
    done = steerkit("check", saved(tmp_path / "m", breed("llama").model), "--json", tmp_path / "out.json")
    assert done.returncode == 1
    assert f"{len(CHECKS) - 2} passed, 1 failed, 1 skipped" in done.stdout
    assert "+s then -s = unsteered FAILED: an edit is applied twice, once, or with the wrong sign." in done.stdout
    told = json.loads((tmp_path / "out.json").read_text())
    assert [row["name"] for row in told["checks"] if row["verdict"] == "FAIL"] == ["+s then -s = unsteered"]


def test_encoder_decoders_are_refused_before_half_of_them_is_loaded(steerkit: Steerkit, tmp_path: Path) -> None:
    sizes = {f"{side}_{name}": 2 for side in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    bart = transformers.BartConfig(vocab_size=64, d_model=16, encoder_ffn_dim=16, decoder_ffn_dim=16, **sizes)
    t5 = transformers.T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2)
    for model in (transformers.BartForConditionalGeneration(bart), transformers.T5ForConditionalGeneration(t5)):
        done = steerkit("check", saved(tmp_path / "m", model))
        assert done.returncode == 2
        assert f"{type(model).__name__} is an encoder-decoder; steerkit steers decoder-only models" in done.stderr


def test_models_of_unknown_kinds_are_refused(steerkit: Steerkit, tmp_path: Path) -> None:
    done = steerkit("check", saved(tmp_path / "griffin", breed("recurrent_gemma").model))
    assert done.returncode == 2
    assert "RecurrentGemmaForCausalLM keeps a past of its own kind" in done.stderr
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    bert = transformers.BertLMHeadModel(transformers.BertConfig(vocab_size=64, is_decoder=True, **sizes))
    done = steerkit("check", saved(tmp_path / "bert", bert))
    assert done.returncode == 2
    assert "BertModel has no list of decoder blocks" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name a model to check: steerkit check MODEL"),
        (["nowhere/"], "nowhere/: the model can't be loaded"),
        (["pocket:base", "--layers", "first"], "--layers first: 'first' is no block; write 0,5 or 3-8"),
        (["pocket:base", "--layers", "7"], "--layers: 7 is not a block of pocket:base: it has 4, numbered 0 to 3"),
    ],
)
def test_mistakes_in_words(steerkit: Steerkit, words: list[str], message: str) -> None:
    done = steerkit("check", *words)
    assert done.returncode == 2
    assert message in done.stderr


def test_the_docs_hold_the_checks_own_words(steerkit: Steerkit) -> None:
    assert steerkit("check", "--list").stdout.strip() == as_markdown()
    assert as_markdown() in DOCS.read_text(encoding="utf-8")
    assert all(check.about and check.failure for check in CHECKS)
