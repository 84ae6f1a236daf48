"""Figures that tell a text from "Wait Wait Wait"."""

from __future__ import annotations

import pytest

from steerkit.judging.repetition import collapsed, distinct_2, longest_repeat, words


def test_words_are_folded_and_stripped() -> None:
    assert words("Wait, “WAIT”… don't (hmm)") == ["wait", "wait", "don't", "hmm"]


@pytest.mark.parametrize(
    ("text", "run"),
    [("", 0), ("one", 1), ("a b a b", 1), ("no Wait, wait. WAIT! no", 3), ("x " * 7, 7)],
)
def test_longest_repeat(text: str, run: int) -> None:
    assert longest_repeat(text) == run


def test_distinct_2() -> None:
    assert distinct_2("") == distinct_2("one") == 1.0
    assert distinct_2("a b c d") == 1.0
    assert distinct_2("a b a b a") == pytest.approx(2 / 4)
    assert distinct_2("a a a a") == pytest.approx(1 / 3)


def test_collapsed_by_either_setting() -> None:
    assert collapsed("so wait wait wait wait wait and on")
    assert not collapsed("so wait wait wait wait and on")
    assert collapsed("so wait wait wait and on", repeat=3)
    loop = "hmm wait no " * 10
    assert distinct_2(loop) < 0.3
    assert longest_repeat(loop) == 1
    assert collapsed(loop)
    assert not collapsed(loop, distinct=0.05)
    assert not collapsed("")
