"""Sentences: exact spans that cover every text, pySBD's own where it is right, and work that grows with the text."""

from __future__ import annotations

import random
import re
from itertools import pairwise
from pathlib import Path

import pysbd
import pytest

pytest.importorskip("hypothesis", reason="needs hypothesis (pip install 'steerkit-hf[dev]')")
from hypothesis import given, settings
from hypothesis import strategies as st
from pysbd.lang.english import English
from steerkit_plugins.judges import pysbd_english
from steerkit_plugins.judges import sentences as module
from steerkit_plugins.judges.sentences import MARKS, WINDOW, sentences

RULED = (  # what pySBD's rules look at, and characters that are hard to carry through
    "Wait. Wait Hmm... hmm, 3.14 e.g. i.e. ? ! ?! !! ... .... \" ' ( ) [ ] { } - -- — 1. 2. 12. 1) 2) (a) (b) a) b) a. "
    "b. i. ii. I. A. The é * … .[1,2] .[3-4] No. no. co. Mr. St. p.m. U.S. “ ” ‘ ’ « » \\ \\( \\n Yahoo! "
    "。 ！ ？ （ ） 「 」 日本 °. .pdf 's \u2028 \x0b \x1c \x1f \x85 \x00 \ufeff \U0001f914 & &⎋& &ᓴ& &✂&"
)
SPACES = ["\n", "\r\n", "\n\n", "  ", "\u3000", ". . .", ". . . ."]
PIECES = [*RULED.split(" "), *SPACES, *map(chr, MARKS)]
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=25).flatmap(
    lambda parts: st.sampled_from(["", " "]).map(lambda between: between.join(parts))
)


def check(text: str) -> list[tuple[int, int]]:
    found = sentences(text)
    assert all(0 <= start < end <= len(text) for start, end in found)
    assert all(end <= start for (_, end), (start, _) in pairwise(found))
    assert all(text[start:end] == text[start:end].strip() for start, end in found)
    assert "".join("".join(text[a:b].split()) for a, b in found) == "".join(text.split())
    return found


def split(text: str) -> list[str]:
    return [text[start:end] for start, end in sentences(text)]


@pytest.mark.parametrize("mark", sorted(map(chr, MARKS)))
def test_a_mark_of_pysbd_in_the_text_is_an_ordinary_character(mark: str) -> None:
    text = f"First one. Then {mark} stands here. Wait, {mark}{mark} again! Done."
    check(text)
    usual = [sentence.replace("~", mark) for sentence in split(text.replace(mark, "~"))]
    assert (
        split(text)
        == usual
        == [
            "First one.",
            f"Then {mark} stands here.",
            f"Wait, {mark}{mark} again!",
            "Done.",
        ]
    )


def test_every_mark_that_pysbd_uses_is_known() -> None:
    """Its rules replace punctuation by characters of its own: all in their replacements that no text brings along."""
    folder = Path(str(pysbd.__file__)).parent
    rules = "processor punctuation_replacer abbreviation_replacer lists_item_replacer between_punctuation lang/english"
    source = "".join(
        (folder / f"{name}.py").read_text(encoding="utf-8")
        for name in [*rules.split(), "lang/common/common", "lang/common/standard"]
    )
    real = set("。．！？（）「」“”‘’«»°،⁃")
    assert {ord(c) for c in source if not c.isascii()} - set(map(ord, real)) == {c for c in MARKS if c > 127}


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(TEXTS)
def test_every_text_is_covered(text: str) -> None:
    check(text)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(TEXTS, st.sampled_from([4, 9, 40]))
def test_every_text_is_covered_in_windows(text: str, window: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WINDOW", window)
        check(text)


def test_sentences_are_those_of_pysbd() -> None:
    """Wherever its spans follow on each other, on random texts of all that its rules look at."""
    draw = random.Random(0)
    ordinary = [piece for piece in PIECES if not set(map(ord, piece)) & MARKS.keys()]
    segmenter, compared = pysbd.Segmenter(language="en", clean=False, char_span=True), 0
    for _ in range(500):
        text = "".join(draw.choice(ordinary) + draw.choice(["", " "]) for _ in range(draw.randint(1, 14)))
        theirs = segmenter.segment(text)
        first = len(text) - len(text.lstrip())
        if [*(piece.start for piece in theirs), len(text)] == [first, *(piece.end for piece in theirs)]:
            assert [text[piece.start : piece.end].strip() for piece in theirs] == split(text), text
            compared += 1
    assert compared > 200


@pytest.mark.parametrize("text", [". . . .\\n And so on.", "Is it? !!", "It is a. . . .\\n ok. Wait."])
def test_what_pysbd_loses_is_kept(text: str) -> None:
    check(text)


def test_the_pattern_for_references_means_the_same() -> None:
    """pySBD's tries all ways to cut a run of digits: thirty of them take a minute."""
    theirs, own = (re.compile(cls.NUMBERED_REFERENCE_REGEX) for cls in (English, pysbd_english.EnglishRules))
    draw = random.Random(0)
    for _ in range(20_000):
        text = "x." + "".join(draw.choice(".[]12 ,-A") for _ in range(draw.randint(3, 14))) + draw.choice([" A", "] A"])
        assert theirs.sub(r"<\1|\2|\7>", text) == own.sub(r"<\1|\2|\7>", text)
    check("It is so.[" + "1" * 60 + " and on. Done.")


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Characters that pySBD's rules are given, call by call."""
    found: list[int] = []
    rules = pysbd_english.split

    def counted(text: str) -> list[str]:
        found.append(len(text))
        return rules(text)

    monkeypatch.setattr(pysbd_english, "split", counted)
    module._split.cache_clear()
    return found


@pytest.mark.parametrize(
    ("unit", "each"),
    [("Wait. ", 1), ("Wait, no. ", 1), ("Hmm... ", 1), ("1. a\n2. b\n", 2), ("等等。", 1), ("wait ", 0), ("e.g. ", 0)],
)
def test_a_collapsed_text_is_read_once(read: list[int], unit: str, each: int) -> None:
    """Four windows or forty: the rules are given no more characters, and every repeat has its sentences."""
    found = check(unit * (4 * WINDOW // len(unit)))
    assert len(found) == max(1, each * (4 * WINDOW // len(unit)))
    before = sum(read)
    assert before <= 4 * WINDOW
    check(unit * (10 * WINDOW // len(unit)))
    assert sum(read) - before <= WINDOW  # the rest behind the last whole window


def test_a_text_without_repeats_is_read_at_most_twice(read: list[int]) -> None:
    for between in (" ", "\n", ""):
        text = between.join(f"Now {n} is {n * n}{'.' * (n % 5 > 0)}" for n in range(3 * WINDOW // 15))
        check(text)
        assert len(text) > 2 * WINDOW and sum(read) <= 2 * len(text)
        read.clear()


def test_a_cut_between_windows_does_not_show() -> None:
    """Sentences on one line are read again where a window ends; a sentence longer than a window stays one."""
    long = "so " * WINDOW
    assert split(f"Wait. {long}it is. No.") == ["Wait.", f"{long}it is.", "No."]
    line = " ".join(f"Sentence number {n} of many." for n in range(2 * WINDOW // 20))
    assert split(line) == [f"Sentence number {n} of many." for n in range(2 * WINDOW // 20)]
    assert split("x" * 3 * WINDOW) == ["x" * 3 * WINDOW]
