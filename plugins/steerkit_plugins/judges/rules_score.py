"""Points from 0 to 100 by patterns that the recipe writes down, where no LLM is at hand."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from steerkit.interfaces import Config, Judge, Metric
from steerkit_plugins.judges.patterns import Pattern
from steerkit_plugins.judges.sentences import sentences

POINTS = "points 0 to 100"


def _not_empty(pattern: str) -> str:
    if re.search(pattern, ""):
        raise ValueError(f"{pattern!r} fits a text without characters, so it is found everywhere")
    return pattern


Slot = Annotated[Pattern, AfterValidator(_not_empty)]


class ScoreRule(Config):
    hits: tuple[Slot, ...] = ()
    """Regular expressions (Python's) for slots that are filled as the metric counts; with `misses`."""
    misses: tuple[Slot, ...] = ()
    """The same for slots that are filled otherwise: points are 100 · hits / (hits + misses), by places in the text."""
    sentences: tuple[Pattern, ...] = ()
    """In place of `hits` and `misses`: regular expressions of whole sentences; points are the % that one fits."""
    better: Literal["up", "down", "neither"] = "neither"
    """Which way the points are better."""
    about: str = ""
    """What they measure, in a line; figures print it."""

    @model_validator(mode="after")
    def _is_one_rule(self) -> ScoreRule:
        given = bool(self.hits), bool(self.misses), bool(self.sentences)
        if given not in ((True, True, False), (False, False, True)):
            raise ValueError("give patterns for both hits and misses, or for sentences")
        return self


class RulesScoreConfig(Config):
    rules: dict[str, ScoreRule] = Field(min_length=1)
    """Name of a metric → its rule: patterns of slots (`hits`, `misses`), or of whole `sentences`."""


class RulesScoreJudge(Judge):
    """Shares of slots and of sentences as points, so that a run needs no LLM: the twin of `llm-score`."""

    Config = RulesScoreConfig

    def metrics(self) -> Sequence[Metric]:
        return [
            Metric(name, POINTS, (0.0, 100.0), rule.better, about=rule.about)
            for name, rule in self.config.rules.items()
        ]

    def score(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """For each text its points by metric: NaN without a slot of either kind; nothing for a text of whitespace."""
        rules = self.config.rules
        return [{name: _points(rule, text) for name, rule in rules.items() if text.strip()} for text in texts]

    def marks(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """For each text the places of hits."""
        rules = self.config.rules.values()
        return [sorted({place for rule in rules for place in _places(rule.hits, text)}) for text in texts]


def _points(rule: ScoreRule, text: str) -> float:
    if rule.sentences:
        own = [text[a:b] for a, b in sentences(text)]
        hits, total = sum(any(re.fullmatch(p, each) for p in rule.sentences) for each in own), len(own)
    else:
        hits = len(_places(rule.hits, text))
        total = hits + len(_places(rule.misses, text))
    return 100 * hits / total if total else float("nan")


def _places(patterns: Iterable[str], text: str) -> set[tuple[int, int]]:
    """Characters of every place that a pattern fits; one that several fit counts once."""
    return {match.span() for pattern in patterns for match in re.finditer(pattern, text)}
