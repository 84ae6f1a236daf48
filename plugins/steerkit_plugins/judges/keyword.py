"""The paper's judge: keywords, as a rate over words and as a label of sentences."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from steerkit.data.words import with_a_word
from steerkit.interfaces import Config, Judge, Metric
from steerkit_plugins.judges.keywords import Keywords
from steerkit_plugins.judges.sentences import sentences


class KeywordConfig(Config):
    keywords: tuple[Annotated[str, AfterValidator(with_a_word)], ...] = Field(default=("wait", "hmm"), min_length=1)
    """B of Eq. 1: words or phrases, in any script; case and punctuation around words don't matter. A phrase counts once
    wherever its words follow on each other, and of keywords that overlap the longest counts."""
    substring: bool = False
    """Count words that contain a keyword (the author's code) instead of whole words."""
    label: str = "backtracking"
    """Label of a sentence with a keyword in it; others are `other`."""


class KeywordJudge(Judge):
    """b of Eq. 1, and sentences with a keyword."""

    Config = KeywordConfig

    @cached_property
    def _keywords(self) -> Keywords:
        return Keywords(self.config.keywords, substring=self.config.substring)

    @cached_property
    def _metric(self) -> Any:
        from steerkit_plugins.judges.keyword_rate import KeywordRate

        return KeywordRate(keep_in_memory=True)

    def labels(self) -> Sequence[str]:
        return (self.config.label,)

    def annotate(self, texts: Sequence[str]) -> list[list[tuple[int, int, str]]]:
        return [
            [(a, b, self.config.label if self._keywords.places(text[a:b]) else "other") for a, b in sentences(text)]
            for text in texts
        ]

    def metrics(self) -> Sequence[Metric]:
        about = f"b: keywords ({', '.join(self.config.keywords)})"
        return [Metric("keyword", "share of words", (0.0, 1.0), "up", "b", about)]

    def marks(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """For each text the characters of the keywords that `score` counts."""
        return [self._keywords.places(text) for text in texts]

    def score(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """`keyword`: b of each text in [0, 1]; a text without words has none."""
        if not texts:
            return []
        found = self._metric.compute(
            predictions=list(texts), keywords=list(self.config.keywords), substring=self.config.substring
        )
        return [{"keyword": rate} if rate == rate else {} for rate in found["rates"]]
