"""Prompts dealt to disjoint splits, and what is wrong with a list of them in words."""

from __future__ import annotations

import pytest

from steerkit.data.rows import as_prompts
from steerkit.data.splits import SPLITS, assign_splits, check_splits
from steerkit.data.trace import Prompt
from steerkit.errors import SteerkitError

COUNTS = {"extract": 6, "choose": 2, "test": 3}


def prompts(count: int) -> list[Prompt]:
    return as_prompts(f"question {i}" for i in range(count))


def test_splits_are_disjoint_and_of_the_right_size() -> None:
    found = assign_splits(prompts(20), COUNTS, seed=0)
    assert [p.split for p in found] == [s for s in SPLITS for _ in range(COUNTS[s])]
    assert len({p.prompt for p in found}) == len(found)


def test_the_seed_deals_and_the_order_does_not() -> None:
    def dealt(rows: list[Prompt], seed: int) -> dict[str, str]:
        return {p.prompt: p.split for p in assign_splits(rows, COUNTS, seed)}

    assert dealt(prompts(20), 0) == dealt(prompts(20)[::-1], 0)
    assert dealt(prompts(20), 0) != dealt(prompts(20), 1)


def test_prompts_with_a_split_stay_in_it() -> None:
    own = [Prompt(id="mine", prompt="mine", split="test"), *prompts(10)]
    found = assign_splits(own, COUNTS, seed=0)
    assert next(p.split for p in found if p.id == "mine") == "test"
    assert sum(p.split == "test" for p in found) == 3


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (prompts(7), "too few prompts of 7 prompts: choose 1 of 2, test 0 of 3; give more, or ask for fewer"),
        ([Prompt(id="x", prompt="x", split="tset"), *prompts(20)], "prompts have the split 'tset'; splits are extract"),
        ([Prompt(id=f"{i}", prompt="same") for i in range(20)], "have the same text: what is chosen on one split"),
        ([Prompt(id="same", prompt=f"{i}") for i in range(20)], "prompt id 'same' stands twice"),
    ],
)
def test_lists_that_can_not_be_dealt(rows: list[Prompt], message: str) -> None:
    with pytest.raises(SteerkitError, match=message):
        assign_splits(rows, COUNTS, seed=0)


def test_rows_become_prompts() -> None:
    given = ["a", {"prompt": "b", "answer": 4, "extra": "x"}, {"id": "c1", "prompt": "c"}, Prompt(id="d", prompt="d")]
    found = as_prompts(given)
    assert [(p.id, p.prompt, p.answer) for p in found] == [
        ("p00000", "a", ""),
        ("p00001", "b", "4"),
        ("c1", "c", ""),
        ("d", "d", ""),
    ]


def test_check_splits_names_the_short_ones() -> None:
    with pytest.raises(SteerkitError, match="too few prompts: extract 0 of 1, test 0 of 2;"):
        check_splits([Prompt(id="a", prompt="a", split="choose")], {"extract": 1, "choose": 1, "test": 2})
