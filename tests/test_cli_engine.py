"""`steerkit engine check`: what it prints, and how it ends."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from pydantic import Field

from steerkit import registry
from steerkit.generation.engine import Engine, Greedy
from steerkit.generation.parity import reference
from steerkit.generation.sampling import Sampling
from steerkit.generation.stream import GenerationRow, generate
from steerkit.interfaces import Config
from steerkit.models.models import Models

SMALL = ("pocket:reasoning", "--strengths", "0,1", "--max-new-tokens", "4")


class MirrorConfig(Config):
    off_by: int = 0
    """Steered positions that it miscounts."""
    instead: dict[str, float] = Field(default_factory=dict)
    """Sampling settings that it takes for those it is given."""


class Mirror(Engine):
    """transformers again, as another engine would show it."""

    Config = MirrorConfig
    closed: list[bool] = []  # noqa: RUF012

    def start(self, models: Models, options: Mapping[str, Any]) -> None:
        self.models = models
        assert options == {"bf16": False, "device_map": None, "trust_remote_code": False}

    def generate(
        self, model: str, rows: Sequence[GenerationRow], *, max_new_tokens: int, sampling: Sampling, **rest: Any
    ) -> list[Any]:
        given = {**sampling.model_dump(), **self.config.instead}
        return generate(self.models[model], rows, max_new_tokens=max_new_tokens, **given)

    def greedy(self, model: str, rows: Sequence[GenerationRow], *, max_new_tokens: int) -> Greedy:
        lm = self.models[model]
        texts = generate(lm, rows, max_new_tokens=max_new_tokens, temperature=0)
        log_probs, _, steered = reference(lm, rows, texts, max_new_tokens)
        return Greedy(texts, log_probs, steered + self.config.off_by)

    def close(self) -> None:
        self.closed.append(True)


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Mirror]]:
    monkeypatch.setattr(registry, "_local", {})
    registry.register("engines", "mirror")(Mirror)
    yield Mirror
    Mirror.closed.clear()


def test_an_engine_that_steers_alike_passes(steerkit, mirror) -> None:
    done = steerkit("engine", "check", *SMALL, "--engine", "mirror")
    assert done.returncode == 0, done.stderr
    assert "mirror against transformers: pocket:reasoning, block 1, float32" in done.stdout
    lines = [line.split() for line in done.stdout.splitlines() if line.rstrip().endswith("pass")]
    assert len(lines) == 7 and lines[0][:2] == ["residual-add,", "all"] and "6/6" in lines[0]
    assert " ".join(lines[-1]) == "residual-add, all; temperature 0.7, top_p 0.95 – – 6/6 – pass"
    assert done.stdout.endswith("mirror steers pocket:reasoning as transformers does\n")
    assert mirror.closed == [True]


def test_one_that_does_not_is_exit_code_1_and_says_where(steerkit, mirror) -> None:
    done = steerkit("engine", "check", *SMALL, "--engine", "mirror", "--set", "off_by=2", "--layer", "3")
    assert done.returncode == 1
    greedy = [line for line in done.stdout.splitlines() if "top_p" not in line]
    assert "FAIL" in done.stdout and "pass" not in "".join(greedy) and ", not " in done.stdout
    assert done.stderr.startswith("mirror does not steer pocket:reasoning as transformers does: residual-add, all; ")


def test_one_that_filters_otherwise_is_told_by_its_sampled_texts(steerkit, mirror) -> None:
    given = ("--temperature", "5", "--top-k", "50", "--set", "instead={top_k: 1}")
    done = steerkit("engine", "check", *SMALL, "--engine", "mirror", *given)
    assert done.returncode == 1
    name = "residual-add, all; temperature 5, top_k 50, top_p 0.95"
    assert done.stderr == f"mirror does not steer pocket:reasoning as transformers does: {name}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--top-p", "1.1", "--top-k", "0"), "sampling: 2 problems\n  top_k: input should be greater than or equal"),
        (("--strengths", "0,x"), "--strengths 0,x: give numbers separated by commas, not all 0, as in 0,0.5,1"),
        (("--strengths", "0"), "--strengths 0: give numbers"),
        (("--strengths", "0,nan"), "--strengths 0,nan: give numbers"),
        (("--set", "off_by"), "--set off_by: give OPTION=VALUE, as in gpu_memory_utilization=0.3"),
        (("--set", "of_by=1"), "options of engine 'mirror': 1 problem\n  of_by: Extra inputs are not permitted"),
        (("--layer", "9"), "--layer: 9 is not a block of pocket:reasoning: it has 4, numbered 0 to 3"),
        (("--engine", "vlm"), "no engine is called 'vlm'; did you mean 'vllm'?"),
        (("--engine", "hf"), "engine 'hf' gives no log-probabilities, so it can't be checked"),
    ],
)
def test_mistakes_are_told_in_words(steerkit, mirror, words, message) -> None:
    done = steerkit("engine", "check", "pocket:reasoning", "--engine", "mirror", *words)  # the last one given counts
    assert done.returncode == 2
    assert f"error: {message}" in done.stderr


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed here")
def test_without_vllm_the_error_is_the_command_that_installs_it(steerkit) -> None:
    done = steerkit("engine", "check", "pocket:reasoning")
    assert done.returncode == 2
    assert done.stderr == "error: engine: vllm needs a package: pip install 'steerkit-hf[vllm]'\n"
