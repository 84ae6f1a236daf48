"""A small pocket run, for the tests that need a whole one; `run` is made once a session."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SIZES = (
    "prompts.extract=48",
    "prompts.choose=4",
    "prompts.test=4",
    "max_new_tokens=120",
    "per_device_batch_size=32",
    "save_rows=32",
    "resamples=200",
    "threads=1",
)
SMALL = (
    *SIZES,
    "strengths=[30]",
    "experiments=[transfer, controls, baselines, offsets, layers, lens, projection, agreement, texts]",
    "controls={chosen_by: choose, draws: 2, kinds: [within, covariance, isotropic]}",
    "draws=3",
    "folds=4",
    "baselines={steerers: [gaussian-noise], labels: [deduction], shuffled: [over]}",
    "offsets.starts=[-13, 0]",
    "layers.layers=[0, 1]",
    "agreement.judge={name: keyword, keywords: [wait, hmm]}",
    "perplexity=true",
)

STEPS = (
    "prompts",
    "chats",
    "traces",
    "spans",
    "statistics.base",
    "statistics.reasoning",
    "vectors",
    "generations.choose",
    "likelihoods.choose",
    "scores.choose",
    "findings.choose",
    "generations.test",
    "likelihoods.test",
    "scores.test",
)
"""The steps that make what experiments look at, in their order."""
SAME = (
    "prompts.jsonl",
    "traces.jsonl",
    "spans.jsonl",
    "stats/base.safetensors",
    "stats/reasoning.safetensors",
    "generations/choose.jsonl",
    "generations/test.jsonl",
    "likelihoods/choose.jsonl",
    "likelihoods/test.jsonl",
    "scores/choose.jsonl",
    "scores/test.jsonl",
    "findings/choose.json",
    "results.csv",
    "comparisons.csv",
)
"""Files of any run with perplexity that an interrupted one ends with byte for byte."""


def options(folder: Path, *more: str) -> list[str]:
    """Command-line words of a small run into a folder."""
    words = ["recipe", "run", "backtracking", "--out", str(folder)]
    for setting in (*SMALL, *more):
        words += ["--set", setting]
    return words


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted small run, made by the command line."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    done = subprocess.run([sys.executable, "-m", "steerkit", *options(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder
