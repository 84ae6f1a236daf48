"""Points by patterns: shares of slots, and of sentences."""

from __future__ import annotations

import math
from random import Random
from typing import Any

import pytest
from pydantic import ValidationError
from steerkit_plugins.judges.rules_score import RulesScoreJudge
from steerkit_plugins.judges.sentences import sentences
from steerkit_plugins.pocket.ledger import DAYS, Problem, Step
from steerkit_plugins.pocket.prompts import draw
from steerkit_plugins.pocket.wording import Voice

from steerkit.interfaces import Metric
from steerkit.judging import ask

DAY = "(?:" + "|".join(DAYS) + ")"
RULES: dict[str, Any] = {
    "hedging": {
        "hits": [r"\b(?:Perhaps|Possibly|seems)\b", r"\bhas about\b"],
        "misses": [r"\b(?:Next|Then|gives)\b", r"\bhas just\b"],
        "about": "hedged slots among all slots",
    },
    "coherence": {
        "sentences": [
            rf"(?:First|Next|Then|Perhaps|Possibly) {DAY}[+-]\d (?:gives|seems) -?\d+, so "
            r"\w+ has (?:just|about) -?\d+ \w+\."
        ],
        "better": "up",
    },
}
"""What System 4's small organism is measured by, on the pocket world's sentences."""


def trace(doubtful: bool, seed: int) -> tuple[str, Problem]:
    rng = Random(seed)
    problem, count, told = draw("choose", rng), 0, []
    voice = Voice(doubtful, rng)
    for day, change in zip(DAYS, problem.changes, strict=False):
        count += change
        told.append(voice.worked(problem, Step(day, change, count, count, doubtful)))
    return " ".join(told), problem


def test_metrics_are_those_of_the_rules() -> None:
    assert RulesScoreJudge(rules=RULES).metrics() == [
        Metric("hedging", "points 0 to 100", (0.0, 100.0), about="hedged slots among all slots"),
        Metric("coherence", "points 0 to 100", (0.0, 100.0), "up"),
    ]


def test_slots_of_the_pocket_world_are_counted() -> None:
    """Against a count of words: every slot of these sentences is one of the eight words."""
    judge = RulesScoreJudge(rules=RULES)
    texts = [trace(doubtful, seed)[0] for seed in range(20) for doubtful in (False, True)]
    found = ask.score(judge, texts)
    for text, row in zip(texts, found, strict=True):
        words = text.replace(",", " ").replace(".", " ").split()
        hedged = sum(word in ("Perhaps", "Possibly", "seems", "about") for word in words)
        plain = sum(word in ("Next", "Then", "gives", "just") for word in words)
        assert row == {"hedging": pytest.approx(100 * hedged / (hedged + plain)), "coherence": 100.0}
    assert found[1]["hedging"] > 0 and max(row["hedging"] for row in found[::2]) < 20


def test_broken_sentences_lower_the_share_of_sentences() -> None:
    text, _ = trace(False, 3)
    broken = text.replace(" has just ", " just has ", 1) + " er er er."
    total = len(sentences(broken))
    (row,) = RulesScoreJudge(rules=RULES).score([broken])
    assert total == len(sentences(text)) + 1
    assert row["coherence"] == pytest.approx(100 * (total - 2) / total)
    (row,) = RulesScoreJudge(rules=RULES).score([text.replace("First", "Er First")])  # it has to fit from end to end
    assert row["coherence"] == pytest.approx(100 * (total - 2) / (total - 1))


def test_a_text_without_a_slot_has_no_points() -> None:
    judge = RulesScoreJudge(rules=RULES)
    rows = judge.score(["Nothing here.", "", "It gives."])
    assert math.isnan(rows[0]["hedging"]) and rows[0]["coherence"] == 0.0
    assert rows[1] == {} and rows[2] == {"hedging": 0.0, "coherence": 0.0}
    assert ask.score(judge, ["Nothing here.", ""]) == [{"coherence": 0.0}, {}]


def test_a_place_that_two_patterns_find_counts_once() -> None:
    judge = RulesScoreJudge(rules={"a": {"hits": ["may", "ma."], "misses": ["x"]}})
    assert judge.score(["may x may x x"]) == [{"a": 40.0}]
    assert judge.marks(["may x mat", "x"]) == [[(0, 3), (6, 9)], []]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({}, "give patterns for both hits and misses, or for sentences"),
        ({"hits": ["a"]}, "give patterns for both hits and misses"),
        ({"misses": ["a"], "sentences": ["b"]}, "give patterns for both"),
        ({"hits": ["a"], "misses": ["b"], "sentences": ["c"]}, "give patterns for both"),
        ({"hits": ["("], "misses": ["["]}, r"(?s)'\(' is no regular expression.*'\[' is no regular expression"),
        ({"hits": ["a*"], "misses": ["b"]}, "fits a text without characters"),
    ],
)
def test_rules_that_are_none(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RulesScoreJudge(rules={"a": rule})
