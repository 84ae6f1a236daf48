"""Annotations that were edited, overlap, look like tags, or are torn or huge."""

from __future__ import annotations

import random
import time

import pytest

from steerkit.data.annotation import align, parse_tagged
from steerkit.data.fuzzy import best_fit, words_of
from steerkit.data.locating import locate

LABELS = ("deduction", "backtracking")
TEXT = (
    "So the total is 12 apples. “Wait,” I don't think that's right — **let me** check it again. "
    "The area is \\(\\frac{1}{2} \\cdot 6 \\cdot 4 = 12\\). 所以答案是十二。 Hmm. Wait. Hmm. So it is 12 after all."
)


def section(text: str, quoted: str, *others: str) -> str:
    """Where a quoted piece is found, as text; others stand around it."""
    place = locate(text, [*others[:1], quoted, *others[1:]]).places[len(others[:1])]
    return "" if place is None else text[place.start : place.end]


@pytest.mark.parametrize(
    ("quoted", "found"),
    [
        (
            '"Wait," I don’t think that’s right - let me check it again.',
            "“Wait,” I don't think that's right — **let me** check it again.",
        ),
        (
            "I do not think that's right — let me check it again.",
            "I don't think that's right — **let me** check it again.",
        ),
        ("so the TOTAL is 12 apples", "So the total is 12 apples."),
        ("So the total is 12 aples.", "So the total is 12 apples."),
        ("So the grand total is 12 apples.", "So the total is 12 apples."),
        ("The area is 1/2 · 6 · 4 = 12.", "The area is \\(\\frac{1}{2} \\cdot 6 \\cdot 4 = 12\\)."),
        ("所以答按是十二。", "所以答案是十二。"),
        ("Something else was never written here at all.", ""),
        ("The total of all of the apples might be 12.", ""),
    ],
)
def test_small_edits_are_tolerated_and_large_ones_not(quoted: str, found: str) -> None:
    assert section(TEXT, quoted) == found


def test_edited_spans_are_counted_apart() -> None:
    sections = [
        ("deduction", "So the total is 12 aples."),
        ("backtracking", "Hmm."),
        ("deduction", "nowhere to be found"),
    ]
    found = align(TEXT, sections, LABELS)
    assert (len(found.spans), found.edited, found.unlocated) == (2, 1, 1)


def test_an_edited_section_is_searched_between_its_neighbours_only() -> None:
    text = "I add 3 and 4 to get 7. Then I go on. I add 3 and 4 to get 7. It ends here."
    edited = "I add 3 and 4 too get 7."
    places = locate(text, ["Then I go on.", edited, "It ends here."]).places
    assert places[1] is not None and (places[1].start, places[1].exact) == (text.rindex("I add"), False)
    places = locate(text, [edited, "Then I go on.", edited]).places
    assert [p and p.start for p in places] == [0, text.index("Then"), text.rindex("I add")]


def test_repeated_edited_sections_stand_one_after_the_other() -> None:
    places = locate("Hmm. Hmm! Hmm? Then it ends.", ["Hmm—", "Hmm—", "Hmm—", "Hmm—"]).places
    assert [p and p.start for p in places] == [0, 5, 10, None]


def test_text_labelled_twice_and_text_out_of_order_are_told_apart() -> None:
    text = "One is here. Two is there. Three is gone."
    found = align(text, [("deduction", t) for t in ("One is here.", "One is here.", "Three is gone.")], LABELS)
    assert (found.unlocated, found.overlapping, found.misplaced) == (1, 1, 0)
    found = align(text, [("deduction", t) for t in ("One is here. Two is there.", "Two is there.")], LABELS)
    assert (found.unlocated, found.overlapping, found.misplaced) == (1, 1, 0)
    found = align(text, [("deduction", t) for t in ("Three is gone.", "Two is there.")], LABELS)
    assert (found.unlocated, found.overlapping, found.misplaced) == (1, 0, 1)


def test_more_places_than_a_piece_may_choose_from() -> None:
    text = "Wait. So on. " * 300
    places = locate(text, ["Wait.", "So on."] * 300).places
    assert all(p is not None and text[p.start : p.end] == ("Wait.", "So on.")[i % 2] for i, p in enumerate(places))
    assert [p.start for p in places if p] == sorted(p.start for p in places if p)


def test_places_are_in_order_and_near_what_was_quoted_whatever_was_edited() -> None:
    draw = random.Random(0)
    vocabulary = ["".join(draw.choice("abcdefgh") for _ in range(draw.randint(2, 8))) for _ in range(200)]
    misses = 0
    for _ in range(40):
        sentences = [" ".join(draw.choices(vocabulary, k=draw.randint(8, 14))) + "." for _ in range(12)]
        text = " ".join(sentences)
        quoted = [edit(sentence, draw) for sentence in sentences]
        places = locate(text, quoted).places
        at = 0
        for sentence, place in zip(sentences, places, strict=True):
            start = text.index(sentence, at)
            if place is None:
                misses += 1
            else:
                assert at <= place.start < place.end
                assert abs(place.start - start) <= 20 and abs(place.end - start - len(sentence)) <= 20
                at = place.end
    assert misses <= 5  # of 480


def edit(sentence: str, draw: random.Random) -> str:
    """A word dropped, added or misspelt, quotes or asterisks around it, or nothing."""
    words = sentence.split()
    at = draw.randrange(len(words))
    kind = draw.choice(["drop", "add", "misspell", "mark", "none"])
    if kind == "drop":
        del words[at]
    elif kind == "add":
        words.insert(at, draw.choice(words))
    elif kind == "misspell":
        words[at] = words[at][::-1]
    elif kind == "mark":
        words[at] = f"**{words[at]}**"
    return " ".join(words)


def test_the_best_fit_is_that_of_trying_every_part() -> None:
    draw = random.Random(1)
    for _ in range(200):
        piece = draw.choices(["ab", "abc", "x", "yy"], k=draw.randint(1, 4))
        window = draw.choices(["ab", "abc", "x", "yy", "zzz"], k=draw.randint(0, 6))
        first, last, cost = best_fit(piece, window)
        costs = {
            (i, j): distance(piece, window[i:j]) for i in range(len(window) + 1) for j in range(i, len(window) + 1)
        }
        assert cost == min(costs.values()) == costs[first, last]


def distance(a: list[str], b: list[str]) -> float:
    """Edit distance in characters where words are changed, added or, at half the price, dropped."""
    if not a or not b:
        return sum(map(len, a)) + sum(map(len, b)) / 2
    longer, wrong = max(len(a[0]), len(b[0])), letters(a[0], b[0])
    change = (wrong if 2 * wrong <= longer else longer) + distance(a[1:], b[1:])
    return min(change, len(a[0]) + distance(a[1:], b), len(b[0]) / 2 + distance(a, b[1:]))


def letters(a: str, b: str) -> int:
    if not a or not b:
        return len(a) + len(b)
    return min(letters(a[1:], b[1:]) + (a[0] != b[0]), letters(a[1:], b) + 1, letters(a, b[1:]) + 1)


def test_words_are_letters_and_digits_in_place() -> None:
    text = "**Ｆull** \\frac{x²}{2}, ½!"
    assert [(w.text, text[w.start : w.end]) for w in words_of(text)] == [
        ("full", "Ｆull"),
        ("x2", "x²"),
        ("2", "2"),
        ("1⁄2", "½"),
    ]


def test_what_looks_like_a_tag_in_the_trace_is_text() -> None:
    text = 'The list is ["apple"] or so. Then ["backtracking"] is a label, and ["end-section"] ends. Wait. Done.'
    annotated = (
        '["deduction"] The list is ["apple"] or so. ["end-section"] '
        '["deduction"] Then ["backtracking"] is a label, and ["end-section"] ends. ["end-section"] '
        '["backtracking"] Wait. ["end-section"] ["deduction"] Done. ["end-section"]'
    )
    found = align(text, parse_tagged(annotated, text), LABELS)
    assert [text[a:b] for a, b, label in found.spans if label == "backtracking"] == ["Wait."]
    assert (found.coverage, len(found.spans), found.edited, dict(found.rejected)) == (1.0, 4, 0, {})


@pytest.mark.parametrize("torn", ['["end-sec', '["', '["backtracking"', '[ "deduc'])
def test_an_annotation_cut_within_a_tag_keeps_its_last_section(torn: str) -> None:
    assert parse_tagged(f'["deduction"] One. ["end-section"] ["backtracking"] Wait. {torn}') == [
        ("deduction", "One."),
        ("backtracking", "Wait."),
    ]


@pytest.mark.parametrize("annotated", ["", "I can't help with that.", '["', "[" * 1000, '["end-section"]'])
def test_an_annotation_without_sections(annotated: str) -> None:
    assert parse_tagged(annotated) == []
    found = align("Some text.", parse_tagged(annotated), LABELS)
    assert (found.spans, found.coverage) == ([], 0.0)


_DRAW = random.Random(5)
_WORDS = ["".join(_DRAW.choices("abcdefghij", k=_DRAW.randint(2, 9))) for _ in range(3000)]
SENTENCES = [" ".join(_DRAW.choices(_WORDS, k=15)) + "." for _ in range(10_000)]
LONG, SHORTER = " ".join(SENTENCES), SENTENCES[:1500]


@pytest.mark.parametrize(
    ("text", "pieces", "located"),
    [
        pytest.param(LONG, SENTENCES, 10_000, id="faithful"),
        pytest.param(LONG, SHORTER[::-1], 1, id="reversed"),
        pytest.param(LONG, [f"x{s[1:]}" for s in SHORTER], 1500, id="edited"),
        pytest.param(LONG, [LONG[: len(LONG) // 2] + " x " + LONG[len(LONG) // 2 :]], 0, id="one piece"),
        pytest.param("Wait " * 200_000, ["Wait"] * 10_000, 10_000, id="one word"),
        pytest.param("a" * 1_000_000, ["a" * (i % 70) + "b" for i in range(10_000)], 0, id="one letter"),
    ],
)
def test_a_million_characters_and_ten_thousand_sections(text: str, pieces: list[str], located: int) -> None:
    began = time.monotonic()
    places = locate(text, pieces).places
    assert time.monotonic() - began < 120
    assert sum(place is not None for place in places) == located


def test_a_million_characters_that_look_like_tags() -> None:
    began = time.monotonic()
    tags = '["deduction"] x ' * 70_000
    assert len(parse_tagged(tags)) == 70_000
    assert len(parse_tagged(tags, tags)) == 1
    assert parse_tagged('[ "' * 300_000) == []
    assert parse_tagged("[" + " " * 500_000 + "[" * 500_000) == []
    assert time.monotonic() - began < 60
