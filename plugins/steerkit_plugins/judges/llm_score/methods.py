"""How points are asked for, by name: what a request has besides the rubric, and how its answers are read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from steerkit_plugins.judges.llm_score.config import LLMScoreConfig
from steerkit_plugins.judges.llm_score.reading import Reading, expectation, mean, number
from steerkit_plugins.llm.completion import Answer
from steerkit_plugins.llm.failures import Failure


class Method(ABC):
    """A way to points."""

    def parameters(self, config: LLMScoreConfig) -> list[dict[str, Any]]:
        """What each of a text's requests has besides; one for each."""
        return [{}]

    @abstractmethod
    def read(self, answers: Sequence[Answer], config: LLMScoreConfig) -> Reading | Failure:
        """Points of a text by the answers to its requests."""


class Expectation(Method):
    """One token and what else it could have been."""

    def parameters(self, config: LLMScoreConfig) -> list[dict[str, Any]]:
        one = 1 if config.max_tokens else None
        return [{"max_tokens": one, "logprobs": True, "top_logprobs": config.top_logprobs}]

    def read(self, answers: Sequence[Answer], config: LLMScoreConfig) -> Reading | Failure:
        return expectation(answers[0], config.min_mass)


class Number(Method):
    """A number in words."""

    def read(self, answers: Sequence[Answer], config: LLMScoreConfig) -> Reading | Failure:
        return number(answers[0])


class Mean(Method):
    """Numbers that are sampled; the seed tells the requests apart, so that each has an answer of its own."""

    def parameters(self, config: LLMScoreConfig) -> list[dict[str, Any]]:
        return [{"seed": (config.seed or 0) + sample} for sample in range(config.samples)]

    def read(self, answers: Sequence[Answer], config: LLMScoreConfig) -> Reading | Failure:
        return mean(answers, config.min_mass)


METHODS: dict[str, Method] = {"expectation": Expectation(), "number": Number(), "mean": Mean()}
