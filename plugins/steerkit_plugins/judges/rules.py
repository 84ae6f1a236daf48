"""Labels by patterns that the recipe writes down, where no LLM is at hand."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import Field

from steerkit.interfaces import Config, Judge
from steerkit_plugins.judges.patterns import Pattern
from steerkit_plugins.judges.sentences import sentences


class RulesConfig(Config):
    patterns: dict[str, tuple[Pattern, ...]] = Field(min_length=1)
    """Label → regular expressions (Python's), searched in one sentence; labels are tried in this order."""


class RulesJudge(Judge):
    """The first label one of whose patterns is found in the sentence; `other` when none is."""

    Config = RulesConfig

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        self._compiled = [
            (label, re.compile(pattern)) for label, patterns in self.config.patterns.items() for pattern in patterns
        ]

    def labels(self) -> Sequence[str]:
        return tuple(self.config.patterns)

    def annotate(self, texts: Sequence[str]) -> list[list[tuple[int, int, str]]]:
        return [[(a, b, self._label(text[a:b])) for a, b in sentences(text)] for text in texts]

    def _label(self, sentence: str) -> str:
        return next((label for label, pattern in self._compiled if pattern.search(sentence)), "other")
