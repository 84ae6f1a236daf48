"""Reasoning judges, and answers of every shape that servers give, over real HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from llm_server import KEY, State, completion, reply, serving
from steerkit_plugins.judges.llm.judge import LLMJudge
from steerkit_plugins.llm.completion import read_answer
from steerkit_plugins.prompts.llm import LLMPrompts

from steerkit.errors import SteerkitError

TEXT = "So x is 4. Wait, no. It is five."
LABELS = ["deduction", "backtracking", "deduction"]
WRONG = '["example-testing"] So x is 4. Wait, no. It is five. ["end-section"] or {"sections": []}'

Json = dict[str, Any]
Make = Callable[..., LLMJudge]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, State]]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving() as found:
        yield found


@pytest.fixture
def state(server: tuple[str, State]) -> State:
    return server[1]


@pytest.fixture
def make(server: tuple[str, State], tmp_path: Path) -> Make:
    def build(**options: Any) -> LLMJudge:
        judge = LLMJudge(base_url=server[0], **{"max_retries": 0, "timeout": 5, **options})
        judge.open(tmp_path / "answers", lambda done, total: None)
        return judge

    return build


def says(state: State, change: Callable[[str], Any], finish: str = "stop", **more: Any) -> None:
    """The model's message from now on: its text changed, and other fields beside it."""

    def answer(body: Json) -> Json:
        found = reply(state, body)
        message = found["choices"][0]["message"]
        message.update(content=change(message["content"]), **more)
        found["choices"][0]["finish_reason"] = finish
        return found

    state.reply = answer


def labels(judge: LLMJudge, text: str = TEXT) -> list[str]:
    return [label for *_, label in judge.annotate([text])[0]]


@pytest.mark.parametrize("form", ["structured", "tagged", "auto"])
@pytest.mark.parametrize(
    "draft",
    [
        f"<think>\nPerhaps {WRONG}\n</think>\n\n",
        f"Perhaps {WRONG}\n</think>\n\n",
        f"[THINK]{WRONG}[/THINK]",
        f"<|channel|>analysis<|message|>{WRONG}<|end|><|start|>assistant<|channel|>final<|message|>",
    ],
)
def test_a_draft_is_no_answer(make: Make, state: State, tmp_path: Path, form: str, draft: str) -> None:
    says(state, lambda text: draft + text)
    judge = make(format=form)
    assert labels(judge) == LABELS
    assert state.asked == {TEXT: 1}
    assert judge.notes()["mean_coverage"] == 1.0
    assert json.dumps(draft)[1:-1] in (tmp_path / "answers/answers.jsonl").read_text()  # kept as it was paid for
    assert labels(make(format=form)) == LABELS and state.asked == {TEXT: 1}


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_a_draft_in_a_field_of_its_own(make: Make, state: State, tmp_path: Path, field: str) -> None:
    says(state, lambda text: text, **{field: f"Perhaps {WRONG}"})
    assert labels(make()) == LABELS
    assert json.loads((tmp_path / "answers/answers.jsonl").read_text())["answer"]["reasoning"] == f"Perhaps {WRONG}"


@pytest.mark.parametrize(
    ("content", "more", "finish", "kind"),
    [
        (f"<think>{WRONG}", {}, "length", r"1 × cut off \(a draft and no answer\): raise max_tokens"),
        (f"<think>{WRONG}", {}, "stop", r"1 × not the form \(a draft and no answer\)"),
        (f"<think>{WRONG}</think>", {}, "stop", r"1 × not the form \(a draft and no answer\)"),
        (None, {"reasoning_content": WRONG}, "length", r"1 × cut off \(a draft and no answer\)"),
        (None, {"reasoning": WRONG}, "stop", r"1 × not the form \(a draft and no answer\)"),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": WRONG}]}], {}, "stop", "a draft and no answer"),
        (None, {}, "stop", r"1 × not the form \(no text\)"),
        (None, {"refusal": "I won't."}, "stop", r"1 × refused \(I won't\.\)"),
        ([{"type": "refusal", "refusal": "I won't."}], {}, "stop", r"1 × refused \(I won't\.\)"),
        (
            None,
            {"tool_calls": [{"id": "1", "type": "function", "function": {"name": "label"}}]},
            "tool_calls",
            r"1 × not the form \(no text, but tool label\)",
        ),
        (None, {"function_call": {"name": "label", "arguments": ""}}, "function_call", r"no text, but tool label"),
        ([{"type": "image_url", "image_url": {"url": "x"}}], {}, "stop", r"not the form \(no text, but image_url\)"),
    ],
)
def test_a_draft_alone_or_no_text_is_a_failure_that_is_paid_once(
    make: Make, state: State, content: Any, more: Json, finish: str, kind: str
) -> None:
    says(state, lambda text: content, finish, **more)
    for _ in range(2):
        with pytest.raises(SteerkitError, match=kind):
            make(format="structured").annotate([TEXT])
    judge = make(format="structured", unusable="leave-out")
    assert judge.annotate([TEXT]) == [[]] and sum(judge.notes()["unusable_answers"].values()) == 1
    assert state.asked == {TEXT: 1}


def test_a_draft_alone_is_asked_again_as_tagged_text(make: Make, state: State) -> None:
    says(state, lambda text: f"<think>{WRONG}" if text.startswith("{") else f"<think>{WRONG}</think>{text}")
    assert labels(make(format="auto")) == LABELS
    assert state.asked == {TEXT: 2}


@pytest.mark.parametrize(
    ("shape", "cut"),
    [
        ("```json\n{}\n```", False),
        ("```\n{}\n```", False),
        ("Sure, here it is:\n\n```json\n{}\n```\nDone!", False),
        ("Here: {} I hope it helps.", False),
        ('First {{"sections": []}}, then rather:\n{}', False),
        ("<think>{{}}</think>```json\n{}", True),
    ],
)
def test_json_in_a_fence_or_in_prose_is_read_not_asked_twice(make: Make, state: State, shape: str, cut: bool) -> None:
    says(state, lambda text: shape.format(text) if text.startswith("{") else text)
    assert labels(make(format="auto")) == LABELS
    assert state.asked == {TEXT: 1}
    if cut:
        says(state, lambda text: shape.format(text[:40]), "length")
        with pytest.raises(SteerkitError, match=r"1 × cut off \(```json"):
            make(format="structured").annotate(["Another. Wait, no."])


def test_line_breaks_within_json_texts_are_let_through(make: Make, state: State) -> None:
    text = "So x is 4.\nWait, no."
    says(state, lambda content: "```json\n" + content.replace("4.", "4.\n") + "\n```")
    state.answer = lambda text: [("deduction", "So x is 4."), ("backtracking", "Wait, no.")]
    assert labels(make(format="structured"), text) == LABELS[:2]


@pytest.mark.parametrize(
    "parts",
    [
        lambda text: [{"type": "text", "text": text}],
        lambda text: [{"type": "text", "text": text[:20]}, {"type": "text", "text": text[20:]}],
        lambda text: [{"type": "output_text", "text": text, "annotations": []}],
        lambda text: [
            {"type": "thinking", "thinking": [{"type": "text", "text": WRONG}]},
            {"type": "text", "text": text},
        ],
        lambda text: [{"type": "reasoning", "text": WRONG}, text, {"type": "audio", "data": "x"}],
    ],
)
def test_content_as_a_list_of_parts(make: Make, state: State, parts: Callable[[str], Any]) -> None:
    says(state, parts)
    assert labels(make(format="structured")) == LABELS
    assert state.asked == {TEXT: 1}


@pytest.mark.parametrize("form", ["structured", "tagged"])
@pytest.mark.parametrize("draft", ["", "<think>Is </think> its end? Maybe.</think>"])
def test_a_text_with_marks_of_drafts_is_quoted_whole(make: Make, state: State, form: str, draft: str) -> None:
    """The judge reads other marks in their place: what ends a draft in its answer is its own."""
    text = "<think> So x is 4. Wait, </think> no. [THINK] ⟦0⟧ It is five. ⟦1⟧"
    says(state, lambda content: draft + content)
    judge = make(format=form)
    spans = judge.annotate([text])[0]
    assert [(text[a:b], label) for a, b, label in spans] == [
        ("<think> So x is 4.", "deduction"),
        ("Wait, </think> no.", "backtracking"),
        ("[THINK] ⟦0⟧ It is five.", "deduction"),
        ("⟦1⟧", "deduction"),
    ]
    asked = state.bodies[0]["messages"][-1]["content"]
    assert "think" not in asked.casefold() and asked.endswith("⟦0⟧ It is five. ⟦1⟧")


def test_an_answer_that_quotes_marks_all_the_same(make: Make, state: State) -> None:
    text = "So x is 4. Wait, </think> no."
    sections = [("deduction", "So x is 4."), ("backtracking", "Wait, </think> no.")]
    state.answer = lambda text: sections
    for form in ("structured", "tagged"):
        assert labels(make(format=form), text) == LABELS[:2]


def test_content_of_no_known_shape_is_told() -> None:
    for content in (7, {"text": "x"}, True):
        with pytest.raises(ValueError, match="the message's content is neither text nor a list of parts, but "):
            read_answer(json.dumps(completion(content)))  # type: ignore[arg-type]


def test_prompts_are_read_behind_a_draft(server: tuple[str, State], tmp_path: Path) -> None:
    url, state = server
    source = LLMPrompts(base_url=url, categories=("logic",), per_category=3, per_request=3, spare_requests=1)
    source.open(tmp_path, lambda done, total: None)
    drafts = ['["Is this a mere draft?", "And this one?"]', "1. Is this a mere draft then?"]
    asked = [f"What follows from the {number} one?" for number in ("first", "second", "third")]
    state.reply = lambda body: completion(f"<think>{drafts[0]}\n{drafts[1]}")
    with pytest.raises(SteerkitError, match=r"logic 0 of 3; .*2 × not the form \(a draft and no answer\)"):
        source.read({"extract": 1, "choose": 1, "test": 1}, seed=0)
    assert source.notes()["unusable_answers"] == {"not the form": 2}
    state.reply = lambda body: completion(f"<think>{drafts[0]}\n{drafts[1]}</think>\n{json.dumps(asked)}")
    again = source.replace(seed=1)
    again.open(tmp_path, lambda done, total: None)
    assert {prompt.prompt for prompt in again.read({"extract": 1, "choose": 1, "test": 1}, seed=0)} == set(asked)
