"""Drafts of reasoning models: only one that a text begins with is cut, in every family's marks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steerkit.data.drafts import after_draft, draft_marks
from steerkit.data.importing import read_spans
from steerkit.data.tokens import plain_trace
from steerkit.data.trace import Prompt

ANSWER = '["deduction"] So x is 4. ["end-section"]'
DRAFT = 'Let me see. I could say ["backtracking"] So x is 4. ["end-section"], or {"sections": []}.'

FAMILIES = [
    "<think>{}</think>",
    "<thinking>\n{}\n</thinking>",
    "<thought>{}</thought>",
    "<reasoning>{}</reasoning>",
    "<seed:think>{}</seed:think>",
    "[THINK]{}[/THINK]",
    "◁think▷{}◁/think▷",
    "<Think>{}</THINK>",
    "<|START_THINKING|>{}<|END_THINKING|><|START_RESPONSE|>",
    "<|channel>thought\n{}<channel|>",
    "<|begin_of_thought|>{}<|end_of_thought|>",
    "<|inner_prefix|>{}<|inner_suffix|>",
    "<|open|>think<|sep|>{}<|close|>think<|sep|>",
    "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>",
    "<|start|>assistant<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final <|constrain|>json"
    "<|message|>",
    "analysis{}assistantfinal",
    "Here is my thought process:\n{}\n\nHere is my response:\n",
]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_leading_draft_is_cut(family: str) -> None:
    before, after = family.split("{}")
    end = "<|START_RESPONSE|>" if "RESPONSE" in family else ""
    assert after_draft(before + DRAFT + after + ANSWER) == end + ANSWER
    assert after_draft(f"\n {before}{DRAFT}{after}\n\n{ANSWER}\n") == (f"{end}\n\n" if end else "") + ANSWER + "\n"
    assert after_draft(before + DRAFT) is None  # it ran out of tokens
    if not end:
        assert after_draft(before + DRAFT + after) is after_draft(before + DRAFT + after + " \n") is None


@pytest.mark.parametrize("family", [name for name in FAMILIES if not name.startswith(("analysis", "Here"))])
def test_a_draft_that_the_chat_template_opened(family: str) -> None:
    after = family.split("{}")[1].removesuffix("<|START_RESPONSE|>")
    assert after_draft(DRAFT + after + "\n" + ANSWER) == ANSWER
    assert after_draft(f"{DRAFT}{after}<think>More.</think>{ANSWER}") == ANSWER


@pytest.mark.parametrize(
    "answer",
    [
        ANSWER,
        "",
        "  text ",
        '{"sections": [{"label": "deduction", "text": "So </think> it is."}]}',
        '["deduction"] So <think> no </think> yes. ["end-section"]',
        '```json\n{"a": "</think>"}\n```',
        "Sure! The text says <think>hm</think> first.",
        "Well, [THINK] and [/THINK].",
        "analysis of it: fine",
        "Here is my response: yes. assistantfinal",
        "The <thinking> tag is closed by </thinking>.",
        '[{"a": "</think>"}]',
    ],
)
def test_marks_further_on_are_text(answer: str) -> None:
    assert after_draft(answer) == answer


def test_several_drafts_and_marks_within_one() -> None:
    assert after_draft(f"<think>a</think>\n<think>b <thinking> c </think>{ANSWER}") == ANSWER
    assert after_draft(f"<think>Is </thinking> an end? No.</think>{ANSWER} <think>") == f"{ANSWER} <think>"


def test_families_that_stand_in_the_text_itself_are_left_alone() -> None:
    assert after_draft("<think> So </think> it is.", of="<think> So </think> it is.") == "<think> So </think> it is."
    assert after_draft("[THINK]a[/THINK]<think> So", of="<think> So") == "<think> So"


def test_marks_of_a_text() -> None:
    assert draft_marks("a <think> b </think> c <think> [THINK] <|channel|>final<|message|> Here is my response:") == [
        "<think>",
        "</think>",
        "[THINK]",
        "<|channel|>final<|message|>",
    ]
    assert draft_marks("thinking, if x < y and z > y") == []


@pytest.mark.parametrize(
    "unit", ["<think>", "</think>", "<think></think>", "a <think> ", "x analysisA ", "<|channel|>"]
)
def test_many_marks_are_read_in_one_go(unit: str) -> None:
    """50,000 of them: at once, where looking for each end anew takes minutes."""
    found = after_draft(unit * 50_000 + ANSWER)
    assert found is None or found.endswith(ANSWER)


def test_a_draft_before_a_published_annotation(tmp_path: Path) -> None:
    text = "So x is 4. Wait, no."
    annotated = '<think>Perhaps ["backtracking"] So x is 4. ["end-section"]</think>' + ANSWER
    path = tmp_path / "annotated.jsonl"
    row = {"id": "t", "annotated": annotated}
    path.write_text(json.dumps(row) + "\n")
    trace = plain_trace(Prompt(id="t", prompt="?"), text, "")
    found = read_spans(path, [trace], ["deduction", "backtracking"]).spans
    assert [(text[span.start : span.end], span.label) for span in found] == [("So x is 4.", "deduction")]
