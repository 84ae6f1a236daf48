"""Prompts that a language model writes: so many a category, none twice, paid once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from llm_server import KEY, completion, serving
from steerkit_plugins.prompts.llm import LLMPrompts, prompts_of

from steerkit.errors import SteerkitError

COUNTS = {"extract": 4, "choose": 1, "test": 1}
KINDS = ("logic", "open spaces", "chance")


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def source_at(url: str, folder: Path, **options: Any) -> LLMPrompts:
    given = {"categories": KINDS, "per_category": 4, "per_request": 2, "max_retries": 0, **options}
    source = LLMPrompts(base_url=url, **given)
    source.open(folder, lambda done, total: None)
    return source


def writer(repeats: int = 0) -> Any:
    """A model that writes what it is asked for, the first answers being the same ones again."""
    count = iter(range(10**6))

    def write(body: dict[str, Any]) -> dict[str, Any]:
        ask = body["messages"][-1]["content"]
        rows = [f"Question {max(0, next(count) - repeats)} on {ask.split(': ')[1][:5]} for you?" for _ in range(2)]
        return completion(json.dumps(rows))

    return write


def test_every_category_has_its_prompts(tmp_path: Path) -> None:
    with serving() as (url, state):
        state.reply = writer()
        source = source_at(url, tmp_path)
        found = source.read(COUNTS, seed=0)
        assert Counter(p.split for p in found) == COUNTS
        everything = source.read({"extract": 10, "choose": 1, "test": 1}, seed=0)
        assert Counter(p.category for p in everything) == dict.fromkeys(KINDS, 4)
        assert len({p.prompt for p in everything}) == len({p.id for p in everything}) == 12
        assert state.asked.total() == 6  # two a category, each once
        assert "write others:\n- Question" in state.bodies[-1]["messages"][-1]["content"]
        assert state.bodies[0]["temperature"] == 1.0
    assert source_at(url, tmp_path).read(COUNTS, seed=0) == found  # without the server


def test_duplicates_are_left_out_and_asked_for_again(tmp_path: Path) -> None:
    with serving() as (url, state):
        state.reply = writer(repeats=5)
        source = source_at(url, tmp_path, categories=("logic",))
        assert len({p.prompt for p in source.read({"extract": 2, "choose": 1, "test": 1}, seed=0)}) == 4
        assert source.notes()["duplicate_prompts"] == 5
        assert source.notes()["asked_now"] == state.asked.total() == 5


def test_categories_that_stay_short_are_named(tmp_path: Path) -> None:
    with serving() as (url, state):
        state.reply = lambda body: completion("I would rather not.")
        with pytest.raises(
            SteerkitError, match="too few different prompts: logic 0 of 4, open spaces 0 of 4, chance 0"
        ):
            source_at(url, tmp_path).read(COUNTS, seed=0)
        assert state.asked.total() == 3 * (2 + 3)


def test_a_failed_request_loses_no_other(tmp_path: Path) -> None:
    with serving() as (url, state):
        state.reply = writer()
        state.faults = {"*": ["status:500"]}
        with pytest.raises(
            SteerkitError, match=r"1 requests for prompts have no answer; what was answered is kept"
        ) as e:
            source_at(url, tmp_path).read(COUNTS, seed=0)
        assert KEY not in str(e.value)
        source_at(url, tmp_path).read(COUNTS, seed=0)
        assert state.asked.total() == 7 and set(state.paid.values()) == {1}


@pytest.mark.parametrize(
    "content",
    [
        '["How far is it?", "What comes\\nnext then?"]',
        'Sure! Here they are:\n```json\n["How far is it?", "What comes next then?"]\n```\nEnjoy.',
        '["How far is it?", "What comes next then?", "And one that is c',
        '["How far is it?", "What comes next then?",]',
        '["How far is it?"\n "What comes next then?"]',
        "Here are two:\n1. How far is it?\n2) What comes next then?\n",
        "- How far is it?\n* What comes next then?",
    ],
)
def test_answers_in_many_shapes(content: str) -> None:
    assert prompts_of(content) == ["How far is it?", "What comes next then?"]


@pytest.mark.parametrize("content", ["", "[", "[]", "[1, 2]", '{"a": 1}', "No.", '["short"]'])
def test_answers_without_prompts(content: str) -> None:
    assert prompts_of(content) == []
