"""Whole small recipe runs on towers and hybrids: two random models with the pocket tokenizer, traces from a file."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from console import Steerkit
from towers import TOWERS
from zoo import MORE, shake

import steerkit as sk

PROMPT = "Max has 3 cups. Monday+5. Tuesday+4. How many cups does Max have?"
SENTENCES = (
    "First Sunday+3 gives 3, so Max has just 3 cups.",
    "Then Monday+5 gives 8, so Max has just 8 cups.",
    "Wait, Monday+5 gives 8, so Max has just 8 cups.",
    "Next Tuesday+4 gives 12, so Max has just 12 cups.",
    "I am not sure at all about this part of the list.",
    "Hmm, Tuesday+4 gives 12, so Max has about 12 cups.",
)
SETTINGS = (
    "prompts.extract=6",
    "prompts.choose=2",
    "prompts.test=2",
    "max_new_tokens=6",
    "per_device_batch_size=4",
    "strengths=[4]",
    "experiments=[transfer, baselines, texts]",
    "baselines={steerers: [gaussian-noise], labels: []}",
    "resamples=100",
    "threads=1",
    "perplexity=true",
)


def made(family: str, seed: int, folder: Path) -> Path:
    """A random model of the pocket vocabulary's size, with its tokenizer."""
    import transformers

    if family in TOWERS:
        config, auto = TOWERS[family](), transformers.AutoModelForImageTextToText
    else:
        kind, options = MORE[family]
        config, auto = getattr(transformers, kind)(**options), transformers.AutoModelForCausalLM
    text = config.get_text_config()
    text.vocab_size, text.eos_token_id = 255, 2
    torch.manual_seed(seed)
    model: Any = auto.from_config(config).eval()
    shake(model)
    model.save_pretrained(folder)
    sk.load_model("pocket:base").tokenizer.save_pretrained(folder)
    return folder


def traces(path: Path) -> Path:
    """Six traces of 4 to 9 sentences, a few of which turn back."""
    rows = [
        {"id": f"t{n}", "prompt": PROMPT, "trace": " ".join(SENTENCES[(n + i) % len(SENTENCES)] for i in range(4 + n))}
        for n in range(6)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run(steerkit: Steerkit, base: Path, reasoning: Path, out: Path, *more: str) -> Path:
    """A whole run of the recipe."""
    models = f"models={{base: {base}, reasoning: {reasoning}}}"
    settings = (*SETTINGS, models, f"traces.file={traces(out.parent / 'traces.jsonl')}")
    words = [word for setting in (*settings, *more) for word in ("--set", setting)]
    done = steerkit("recipe", "run", "backtracking", "--out", out, *words)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize("family", ["mistral3", "qwen3_vl", "lfm2", "falcon_h1"])
def test_a_whole_run(family: str, steerkit: Steerkit, tmp_path: Path) -> None:
    base, reasoning = (made(family, seed, tmp_path / name) for seed, name in enumerate(("base", "reasoning")))
    out = run(steerkit, base, reasoning, tmp_path / "run")
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    batches = "padded" if family in TOWERS else "equal lengths"
    assert {row["batches"] for row in log if "batch_size" in row} == {batches}
    with (out / "results.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) > 10
    assert (out / "vectors").is_dir() and (out / "report.html").is_file()
    report = (out / "report.html").read_text(encoding="utf-8")
    assert "float32, sdpa attention" in report
    assert ("only rows of equal length share a batch" in report) == (batches == "equal lengths")
