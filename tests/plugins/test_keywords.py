"""Keywords: words, phrases and scripts without spaces; what can't be found is refused where the recipe names it."""

from __future__ import annotations

import random
import re
import string
from pathlib import Path

import pytest
from steerkit_plugins.judges.keyword import KeywordJudge
from steerkit_plugins.judges.keyword_rate import KeywordRate, keyword_rate
from steerkit_plugins.judges.keywords import Keywords

from steerkit.errors import InputError, SteerkitError
from steerkit.recipe.load import load_recipe


def matches(text: str, *keywords: str, substring: bool = False) -> list[str]:
    return [text[start:end] for start, end in Keywords(keywords, substring=substring).places(text)]


@pytest.mark.parametrize("keyword", ["wait", "Wait,", "**wait**", "“WAIT…”", " wait ", "wait!", "Ｗａｉｔ"])
def test_a_keyword_is_read_as_words_are(keyword: str) -> None:
    assert keyword_rate("So wait, no. **Wait**", [keyword]) == 2 / 4
    assert KeywordJudge(keywords=[keyword]).score(["So wait, no. **Wait**"]) == [{"keyword": 2 / 4}]


@pytest.mark.parametrize(
    ("text", "keywords", "found"),
    [
        ("Hold on. So hold\non, HOLD — ON but hold it on.", ["Hold on"], ["Hold on.", "hold\non,", "HOLD — ON"]),
        ("Wait a minute. Wait a bit. Wait", ["wait", "wait a minute", "wait a"], ["Wait a minute.", "Wait a", "Wait"]),
        ("let’s see, let's", ["Let's see"], ["let’s see,"]),
        ("no no no", ["no no"], ["no no"]),
        ("他说等等，不对。等 等。等等等等", ["等等", "不对"], ["等等", "不对", "等等", "等等"]),
        ("Hmm，等等。Wait不对", ["wait", "hmm"], ["Hmm", "Wait"]),
        ("等等等", ["等", "等等"], ["等等", "等"]),
        ("ちょっと待って。", ["待って"], ["待って"]),
        ("เดี๋ยวก่อน รอก่อนนะ", ["ก่อน"], ["ก่อน", "ก่อน"]),
        ("잠깐, 잠깐만", ["잠깐"], ["잠깐,"]),
        ("wait等等 x", ["wait等等"], ["wait等等"]),
        ("wait 等等 x", ["wait等等"], []),
        ("wait等等 x", ["wait 等等"], ["wait等等"]),
    ],
)
def test_what_is_found(text: str, keywords: list[str], found: list[str]) -> None:
    assert matches(text, *keywords) == found


def test_substrings_of_words_and_of_phrases() -> None:
    text = "Awaiting the waiter: withhold onto, hold on, on hold"
    assert matches(text, "wait", substring=True) == ["Awaiting", "waiter:"]
    assert matches(text, "hold on", substring=True) == ["withhold onto,", "hold on,"]
    assert matches("不要等等我", "等等", substring=True) == ["等等"]
    assert keyword_rate("waitwait wait no", ["wait"], substring=True) == pytest.approx(2 / 3)  # once a word


@pytest.mark.parametrize("substring", [False, True])
def test_plain_words_are_counted_as_eq_1_says(substring: bool) -> None:
    """The definition itself, on random texts: whitespace words, edges stripped, case-folded, in B or with one of B."""
    draw, edges = random.Random(0), string.punctuation + "“”‘’…—–"
    parts = ["Wait", "wait,", "WAITER", "hmm…", "“Hmm”", "no", "—", "don't", "wait-and", "*wait*", "\n", " ", "..."]
    for _ in range(500):
        text = "".join(draw.choice(parts) + draw.choice(["", " "]) for _ in range(draw.randint(1, 12)))
        words = [word.strip(edges).casefold() for word in text.split()]
        hits = [word for word in words if any(w in word if substring else w == word for w in ("wait", "hmm"))]
        rate = keyword_rate(text, ("wait", "hmm"), substring=substring)
        assert rate == (len(hits) / len(words) if words else pytest.approx(float("nan"), nan_ok=True))
        assert len(matches(text, "wait", "hmm", substring=substring)) == len(hits)


def test_phrases_and_letters_against_other_ways_to_count() -> None:
    draw = random.Random(0)
    for _ in range(300):
        text = " ".join(draw.choice(["wait", "a", "minute", "no"]) for _ in range(draw.randint(1, 15)))
        found = re.findall(r"\b(?:wait a minute|wait a|no wait|wait)\b", text)
        assert matches(text, "wait", "wait a", "wait a minute", "no wait") == found
        letters = "".join(draw.choice("等我们") for _ in range(draw.randint(1, 15)))
        assert len(matches(letters, "等等")) == letters.count("等等")
        assert keyword_rate(letters, ["等等"]) == letters.count("等等") / len(letters)


def test_sentences_with_a_phrase() -> None:
    text = "So it is 4. Hold on, no. Hold. On and on. 等等，不对。 好。"
    found = KeywordJudge(keywords=["hold on", "等等"]).annotate([text])[0]
    assert [text[a:b] for a, b, label in found if label == "backtracking"] == ["Hold on, no.", "等等，不对。"]


@pytest.mark.parametrize(
    ("text", "matches", "words"),
    [("Wait. Hold on, wait a bit.", 3, 6), ("等等，wait。", 2, 3), ("nothing here", 0, 2)],
)
def test_what_marks_is_what_scores(text: str, matches: int, words: int) -> None:
    judge = KeywordJudge(keywords=["Wait,", "hold on", "等等"])
    assert len(judge.marks([text])[0]) == matches
    assert judge.score([text]) == [{"keyword": matches / words}]


def test_keywords_without_a_letter() -> None:
    with pytest.raises(
        SteerkitError, match=r"keywords: '\.\.\.' has no letter or digit in it, so no word can equal it"
    ):
        Keywords(["wait", "..."])
    with pytest.raises(SteerkitError, match=r"keywords: '' has no letter"):
        KeywordRate().compute(predictions=["wait"], keywords=[""])


def test_a_recipe_with_keywords_that_can_not_be_found(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "extends: backtracking\nname: mine\nscore_judge:\n  name: keyword\n  keywords:\n  - wait\n  - '...'\n  - ''\n"
        "lens:\n  words: [wait, '**']\n",
        encoding="utf-8",
    )
    with pytest.raises(InputError) as caught:
        load_recipe(str(path))
    said = str(caught.value)
    assert f"{path}:7:5: score_judge.keywords.1: '...' has no letter or digit in it" in said
    assert f"{path}:8:5: score_judge.keywords.2: '' has no letter or digit in it" in said
    assert f"{path}:10:17: lens.words.1: '**' has no letter or digit in it" in said
