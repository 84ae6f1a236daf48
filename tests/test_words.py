"""Words: the same ones for keywords, quality and counts, in any script."""

from __future__ import annotations

import string
import unicodedata
from itertools import pairwise

import pytest

pytest.importorskip("hypothesis", reason="needs hypothesis (pip install 'steerkit-hf[dev]')")
from hypothesis import given, settings
from hypothesis import strategies as st

from steerkit.data.words import fold, plain, split_words, with_a_word
from steerkit.judging.repetition import collapsed, longest_repeat
from steerkit.judging.repetition import words as quality_words

REPEATABLE = settings(deadline=None, derandomize=True, database=None)
MIXED = st.lists(
    st.sampled_from(
        ["Wait", "’", "—", "…", "等", "。", "，", "か", "ﾞ", "ก่", "၊", "é", "e\u0301", "\u200b", " ", "❤️", "Ａ"]
    )
    | st.text(max_size=2)
).map("".join)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Wait, “WAIT”… **wait** «wait» ¿wait? (wait) `wait` wait🤔 wait\u200b", ["wait"] * 9),
        ("don't don’t DONʼT", ["don't"] * 3),
        ("re-check re‑check", ["re-check"] * 2),
        ("naïve nai\u0308ve ﬁnal Ｗａｉｔ！", ["naïve", "naïve", "final", "wait"]),
        ("a — b ... ❤️", ["a", "", "b", "", ""]),
        ("", []),
        ("等等，不对。", ["等", "等", "不", "对"]),
        ("他说wait，然后Hmm。ok", ["他", "说", "wait", "然", "后", "hmm", "ok"]),
        ("ちょっと待って ｶﾞ ガ", [*"ちょっと待って", "ガ", "ガ"]),
        ("รอก่อนนะ", ["ร", "อ", "ก่", "อ", "น", "น", "ะ"]),
        ("잠깐만요, 잠깐.", ["잠깐만요", "잠깐"]),
        ("नमस्ते। مرحبا، Straße", ["नमस्ते", "مرحبا", "strasse"]),
        ("。", [""]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert [word.text for word in split_words(text)] == words


def test_letters_side_by_side_are_joined() -> None:
    assert [word.joined for word in split_words("等等，等 等a")] == [False, True, False, False, True]


@REPEATABLE
@given(st.text(string.printable))
def test_words_of_ascii_are_what_they_always_were(text: str) -> None:
    own = [word.strip(string.punctuation).casefold() for word in text.split()]
    assert [word.text for word in split_words(text)] == own


@REPEATABLE
@given(MIXED)
def test_words_stand_in_the_text_in_order(text: str) -> None:
    words = split_words(text)
    assert all(0 <= word.start < word.end <= len(text) for word in words)
    assert all(a.end <= b.start for a, b in pairwise(words))
    assert all(plain(text[word.start : word.end]) == word.text for word in words)
    assert all(b.joined == (a.end == b.start) for a, b in pairwise(words))
    assert bool(words) == bool(text.split())
    assert letters("".join(word.text for word in words)) == letters(fold(text))


def letters(text: str) -> list[str]:
    return [c for c in unicodedata.normalize("NFKD", text) if unicodedata.category(c)[0] in "LN"]


@REPEATABLE
@given(MIXED)
def test_case_and_signs_do_not_matter(text: str) -> None:
    for word in text.split():
        assert plain(f"“{word.upper()}!”") == plain(word.upper().lower())
        assert plain(plain(word)) == plain(word)


@pytest.mark.parametrize("text", ["", "...", " ", "—", "。", "\u200b", "❤️"])
def test_what_can_not_be_searched_for(text: str) -> None:
    with pytest.raises(ValueError, match="has no letter or digit in it, so no word can equal it; write a word"):
        with_a_word(text)
    assert with_a_word(f"{text} Wait") == f"{text} Wait"


def test_a_text_without_spaces_can_collapse() -> None:
    assert longest_repeat("所以哈哈哈哈哈。") == 5
    assert collapsed("等等，" * 40)
    assert not collapsed("我们先看第一个条件，然后再检查第二个结论是否成立。")


def test_signs_alone_are_not_one_word() -> None:
    assert quality_words("Wait, — + “WAIT”…") == ["wait", "—", "+", "wait"]
    assert longest_repeat("a + - * / =") == 1
    assert longest_repeat("| | | | |") == 5
