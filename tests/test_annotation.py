"""Unfaithful annotations, found again in the original trace, in order; what can't be is counted."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from steerkit.data.annotation import align, parse_tagged
from steerkit.data.locating import locate

TEXT = "Let me see. 7 is  odd.\nWait, is it? 7 = 2·3 + 1. Wait, is it? So yes."
LABELS = ("initializing", "deduction", "backtracking")


def tagged(*sections: tuple[str, str]) -> str:
    return " ".join(f'["{label}"] {text} ["end-section"]' for label, text in sections)


def run(*sections: tuple[str, str], text: str = TEXT):
    return align(text, parse_tagged(tagged(*sections)), LABELS)


def texts(aligned, text: str = TEXT) -> list[tuple[str, str]]:
    return [(text[a:b], label) for a, b, label in aligned.spans]


WHOLE = (
    ("initializing", "Let me see."),
    ("deduction", "7 is odd."),
    ("backtracking", "Wait, is it?"),
    ("deduction", "7 = 2·3 + 1."),
    ("backtracking", "Wait, is it?"),
    ("deduction", "So yes."),
)


def test_a_faithful_annotation() -> None:
    found = run(*WHOLE)
    assert texts(found) == [(t if t != "7 is odd." else "7 is  odd.", label) for label, t in WHOLE]
    assert (found.coverage, found.unlocated, found.empty, dict(found.rejected)) == (1.0, 0, 0, {})


def test_repeated_sentences_are_found_one_after_the_other() -> None:
    waits = [(a, b) for a, b, label in run(*WHOLE).spans if label == "backtracking"]
    first = TEXT.index("Wait")
    assert [a for a, _ in waits] == [first, TEXT.index("Wait", first + 1)]


def test_an_altered_section_is_counted_and_the_rest_found() -> None:
    found = run(WHOLE[0], ("deduction", "Seven is odd."), *WHOLE[2:])
    assert found.unlocated == 1
    assert [label for *_, label in found.spans] == [s[0] for s in (WHOLE[0], *WHOLE[2:])]
    lost = sum(not c.isspace() for c in "7 is  odd.")
    total = sum(not c.isspace() for c in TEXT)
    assert found.coverage == pytest.approx((total - lost) / total)


def test_a_dropped_section_leaves_a_gap() -> None:
    found = run(WHOLE[0], *WHOLE[2:])
    assert found.unlocated == 0
    assert found.coverage < 1
    assert len(found.spans) == 5


def test_a_section_repeated_by_the_annotator_is_not_found_twice() -> None:
    found = run(*WHOLE, WHOLE[5])
    assert (found.unlocated, len(found.spans)) == (1, 6)


def test_sections_out_of_order_are_not_located() -> None:
    found = run(WHOLE[3], WHOLE[0])  # one of the two can be in order: the longer one is
    assert (found.unlocated, texts(found)) == (1, [("Let me see.", "initializing")])


def test_invented_labels_are_rejected_by_name_and_their_text_is_passed_over() -> None:
    found = run(WHOLE[0], ("musing", "7 is odd."), ("musing", "Wait, is it?"), *WHOLE[3:])
    assert dict(found.rejected) == {"musing": 2}
    assert texts(found)[1:3] == [("7 = 2·3 + 1.", "deduction"), ("Wait, is it?", "backtracking")]
    assert found.spans[2][0] > found.spans[1][1] > 0


def test_empty_sections_are_counted() -> None:
    assert run(("deduction", "  "), *WHOLE).empty == 1


def test_spans_are_in_order_and_do_not_overlap() -> None:
    spans = run(*WHOLE).spans
    assert all(b <= c for (_, b, _), (c, _, _) in pairwise(spans))


def test_missing_end_tags_and_text_outside_sections() -> None:
    parsed = parse_tagged('Sure! ["deduction"] one [ "backtracking" ] Wait. ["end-section"] stray ["deduction"] two')
    assert parsed == [("deduction", "one"), ("backtracking", "Wait."), ("deduction", "two")]


def test_regular_expression_characters_are_plain_text() -> None:
    text = "f(x) = [a-z]* $5.00? (maybe"
    assert run(("deduction", "[a-z]*   $5.00? (maybe"), text=text).spans == [(7, len(text), "deduction")]


def test_an_empty_text() -> None:
    found = run(*WHOLE[:1], text="")
    assert (found.spans, found.coverage, found.unlocated) == ([], 0.0, 1)


def test_a_copy_far_ahead_does_not_swallow_what_lies_between() -> None:
    found = run(("backtracking", "Wait, is it? Really?"), *WHOLE)
    assert (found.unlocated, len(found.spans)) == (1, 6)
    text = "Wait. " + "One step and another one. " * 3 + "Hmm. Wait."
    sections = [("backtracking", "Hmm."), ("deduction", "One step and another one."), ("backtracking", "Wait.")]
    found = run(*sections, text=text)
    assert texts(found, text) == [("One step and another one.", "deduction"), ("Wait.", "backtracking")]


def test_no_other_choice_of_places_in_order_locates_more_characters() -> None:
    draw = random.Random(0)
    for _ in range(300):
        text = " ".join(draw.choice(["aa", "b", "aa b", "ccc", "\n d"]) for _ in range(draw.randint(1, 7)))
        pieces = [
            " ".join(draw.choice(["aa", "b", "ccc", "d", "e"]) for _ in range(draw.randint(1, 2)))
            for _ in range(draw.randint(1, 5))
        ]
        exact = [place for place in locate(text, pieces).places if place and place.exact]
        located = sum(len("".join(text[place.start : place.end].split())) for place in exact)
        assert located == most_characters(" ".join(text.split()), pieces)


def most_characters(text: str, sections: list[str]) -> int:
    """Every way of placing or skipping each section, tried."""
    if not sections:
        return 0
    first, rest = sections[0], sections[1:]
    best = most_characters(text, rest)
    for at in range(len(text)):
        if text.startswith(first, at):
            best = max(best, len(first.replace(" ", "")) + most_characters(text[at + len(first) :], rest))
    return best
