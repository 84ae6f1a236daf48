"""More positions, or other ids, than a model has: told in words, before anything runs."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from adapter_zoo import save_base
from console import Steerkit
from tiny import VOCABULARY, build, random_items, tiny, word_tokenizer
from zoo import HYBRIDS, REFUSED, ZOO, breed

from steerkit.checks.averages import Around
from steerkit.data.trace import Item, Prompt
from steerkit.errors import SteerkitError
from steerkit.extraction.extract import extract, read_layer
from steerkit.generation.likelihood import ScoredText, log_likelihoods
from steerkit.generation.stream import GenerationRow, generate
from steerkit.models import limits
from steerkit.models.language_model import LanguageModel
from steerkit.models.limits import check_lengths, positions
from steerkit.recipe.load import load_arguments
from steerkit.run import SteeringTrainer
from steerkit.vectors.info import VectorInfo
from steerkit.vectors.lens import LogitLens
from steerkit.vectors.steering_vector import SteeringVector

GPT = {
    "vocab_size": 64,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 40,
    "bos_token_id": 2,
    "eos_token_id": 1,
}
OLD: dict[str, Any] = {
    "openai-gpt": lambda: transformers.OpenAIGPTConfig(**GPT),
    "codegen": lambda: transformers.CodeGenConfig(**GPT, rotary_dim=4),
    "gpt_bigcode": lambda: transformers.GPTBigCodeConfig(**GPT),
    "ctrl": lambda: transformers.CTRLConfig(**{**GPT, "dff": 24}),
    "biogpt": lambda: transformers.BioGptConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=40,
    ),
    "gpt_neo": lambda: transformers.GPTNeoConfig(
        vocab_size=64,
        hidden_size=16,
        num_layers=2,
        attention_types=[[["global", "local"], 1]],
        num_heads=2,
        max_position_embeddings=40,
        window_size=4,
    ),
    "xglm": lambda: transformers.XGLMConfig(
        vocab_size=64, d_model=16, ffn_dim=24, num_layers=2, attention_heads=2, max_position_embeddings=40
    ),
}
TABLES = {"gpt2", "opt", "gptj", "mpt", "openai-gpt", "codegen", "gpt_bigcode", "ctrl", "biogpt", "gpt_neo"}
LARGEST = 300  # positions that are tried


@pytest.mark.parametrize("name", [*OLD, *(name for name in ZOO if name not in {*HYBRIDS, *REFUSED})])
def test_which_models_have_a_table_of_positions(name: str) -> None:
    lm = (
        breed(name)
        if name in ZOO
        else LanguageModel(name, transformers.AutoModelForCausalLM.from_config(OLD[name]()), None)
    )
    most, table = positions(lm)
    assert table == (name in TABLES)

    def run(count: int) -> None:
        with torch.no_grad():
            lm.decoder(input_ids=torch.full((1, count), 5), use_cache=False)

    if table:
        assert most is not None
        run(most)
        with pytest.raises((IndexError, RuntimeError)):
            run(most + 1)
        with pytest.raises(SteerkitError, match=rf"a text has {most + 1} tokens, and the model has {most} positions"):
            check_lengths(lm, most + 1, "a text")
    else:
        run(min(most or LARGEST, LARGEST) + 1)
        check_lengths(lm, 10**6, "a text")


def short(name: str = "gpt2") -> LanguageModel:
    return replace(build(name), name="short")


def test_every_forward_says_so() -> None:
    lm = short()
    item = random_items(1)[0]
    long = Item(item.trace, item.spans, [5] * 257)
    edge = Item(item.trace, item.spans, [5] * 256)
    list(read_layer(lm, [edge], 0))
    message = r"short: trace 't0' has 257 tokens, and the model has 256 positions \(a table\): take shorter"
    with pytest.raises(SteerkitError, match=message):
        list(read_layer(lm, [long], 0))
    with pytest.raises(SteerkitError, match=message):
        extract(lm, [long], Around())
    with pytest.raises(SteerkitError, match="a prompt with its text has 257 tokens"):
        list(log_likelihoods(lm, [ScoredText([5] * 200, [6] * 57)]))
    assert len(generate(lm, [GenerationRow([5] * 254, 0)], max_new_tokens=3, temperature=0)[0].ids) <= 3
    with pytest.raises(SteerkitError, match="a prompt with its new tokens has 257 tokens"):
        generate(lm, [GenerationRow([5] * 254, 0)], max_new_tokens=4, temperature=0)


def test_rotary_models_go_on_and_it_is_told_once(caplog, monkeypatch) -> None:
    monkeypatch.setattr(limits, "_told", set())
    lm = short("llama")
    for _ in range(2):
        generate(lm, [GenerationRow([5] * 256, 0)], max_new_tokens=2, temperature=0)
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == [
        "short: a prompt with its new tokens has 257 tokens; the model was made for 256, and may write worse beyond"
    ]


def test_ids_without_a_row() -> None:
    lm = replace(tiny("llama"), tokenizer=word_tokenizer(("<tool>",)))
    item = random_items(1)[0]
    ids = [5, 9, VOCABULARY + 1]
    message = r"llama: token 65 \('<tool>'\) is not in the model's embedding, which has 64 rows: the tokenizer has more"
    with pytest.raises(SteerkitError, match=message):
        generate(lm, [GenerationRow(ids, 0)], max_new_tokens=2, temperature=0)
    with pytest.raises(SteerkitError, match=message):
        extract(lm, [Item(item.trace, item.spans, ids)], Around())
    with pytest.raises(SteerkitError, match=message):
        list(log_likelihoods(lm, [ScoredText(ids, [5])]))
    with pytest.raises(SteerkitError, match="token -1 is not in the model's embedding"):
        generate(lm, [GenerationRow([5, -1], 0)], max_new_tokens=2, temperature=0)


def test_the_lens_reads_the_tokens_that_have_logits(direction) -> None:
    lm = replace(tiny("llama"), tokenizer=word_tokenizer(("waiting",)))
    lens = LogitLens(lm, ["wait"])
    assert lens.keywords.tolist() == [3]  # and not `waiting`
    assert lens.score(direction, top=64).top


# --- the command line ------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A GPT-2 whose tokenizer has two ids more than it."""
    save_base(tmp_path / "m", "gpt2")
    word_tokenizer(("<tool>",)).save_pretrained(tmp_path / "m")
    SteeringVector({1: torch.ones(16)}, VectorInfo(method="x", label="x", window=None)).save(tmp_path / "v.safetensors")
    return tmp_path / "m"


def test_generating_from_the_command_line(steerkit: Steerkit, folder: Path) -> None:
    vector = folder.parent / "v.safetensors"
    sound = steerkit("generate", folder, vector, "wait the sum", "--max-new-tokens", 4)
    assert sound.returncode == 0 and "error" not in sound.stderr
    done = steerkit("generate", folder, vector, "wait <tool>", "--max-new-tokens", 4)
    assert (
        done.returncode == 2 and "error: " in done.stderr and "token 65 ('<tool>') is not in the model's" in done.stderr
    )
    done = steerkit("generate", folder, vector, "wait " * 250, "--max-new-tokens", 8)
    assert done.returncode == 2 and "has 257 tokens, and the model has 256 positions" in done.stderr


def test_commands_that_make_their_own_texts(steerkit: Steerkit, folder: Path) -> None:
    done = steerkit("bench", folder)
    assert done.returncode == 2 and "tokens, and the model has 256 positions (a table)" in done.stderr
    few = transformers.GPT2Config(**{**GPT, "n_positions": 20})
    transformers.AutoModelForCausalLM.from_config(few).save_pretrained(folder)
    done = steerkit("check", folder)
    assert done.returncode == 2 and "what is checked has 32 tokens, and the model has 20 positions" in done.stderr
    models = f"models={{base: {folder}, reasoning: {folder}}}"
    plan = steerkit("recipe", "run", "backtracking", "--dry-run", "--set", models)
    assert plan.returncode == 0, plan.stderr


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("wait <tool>", r"token 65 \('<tool>'\) is not in"),
        ("wait " * 250, "prompt 'p1' with max_new_tokens has 25[0-9]"),
    ],
    ids=["id", "length"],
)
def test_a_run_says_so_before_its_first_text(prompt: str, message: str, folder: Path) -> None:
    args = load_arguments("backtracking", output_dir=str(folder.parent / "run"), layer=1, chat="no", max_new_tokens=8)
    prompts = [
        Prompt(id=f"p{n}", prompt=text, split=split)
        for n, (text, split) in enumerate([("the sum", "extract"), (prompt, "choose"), ("hmm but", "test")])
    ]
    counts = {"extract": 1, "choose": 1, "test": 1}
    models = {"base": str(folder), "reasoning": str(folder)}
    trainer = SteeringTrainer(models, args=args, prompts=prompts, counts=counts)
    with pytest.raises(SteerkitError, match=message):
        trainer.run()
    assert not (folder.parent / "run" / "traces.jsonl").exists()
