"""The paper's judge: keywords, as a rate over words and as a label of sentences."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from pydantic import Field

from steerkit.interfaces import Config, Judge
from steerkit_plugins.judges.sentences import sentences


class KeywordConfig(Config):
    keywords: tuple[str, ...] = Field(default=("wait", "hmm"), min_length=1)
    """B of Eq. 1."""
    substring: bool = False
    """Count words that contain a keyword (the author's code) instead of whole words."""
    label: str = "backtracking"
    """Label of a sentence with a keyword in it; others are `other`."""


class KeywordJudge(Judge):
    """b of Eq. 1, and sentences with a keyword."""

    Config = KeywordConfig

    @cached_property
    def _metric(self) -> Any:
        from steerkit_plugins.judges.keyword_rate import KeywordRate

        return KeywordRate(keep_in_memory=True)

    def labels(self) -> Sequence[str]:
        return (self.config.label,)

    def annotate(self, texts: Sequence[str]) -> list[list[tuple[int, int, str]]]:
        from steerkit_plugins.judges.keyword_rate import keyword_rate

        c = self.config
        return [
            [
                (a, b, c.label if keyword_rate(text[a:b], c.keywords, substring=c.substring) > 0 else "other")
                for a, b in sentences(text)
            ]
            for text in texts
        ]

    def score(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """`keyword`: b of each text in [0, 1]; a text without words has none."""
        if not texts:
            return []
        found = self._metric.compute(
            predictions=list(texts), keywords=list(self.config.keywords), substring=self.config.substring
        )
        return [{"keyword": rate} if rate == rate else {} for rate in found["rates"]]
