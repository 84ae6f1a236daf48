"""The LLM judge over real HTTP: exact spans, both forms, a cache that replays offline."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from llm_server import KEY, SNAPSHOT, State, serving
from pydantic import ValidationError
from steerkit_plugins.judges.llm.judge import LLMJudge
from steerkit_plugins.judges.llm.prompt import Tagged

from steerkit.errors import SteerkitError

TEXTS = ["So x is 4. Wait, no. It is five.", "Add one. Wait! Done.", "", "Add one. Wait! Done."]
TRICKY = 'The tag ["deduction"] is text. Wait, so is ["end-section"] here. And ⟦0⟧ and [ "x" ] too.'

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
        judge = LLMJudge(base_url=server[0], **{"max_retries": 1, "timeout": 5, **options})
        judge.open(tmp_path / "answers", lambda done, total: None)
        return judge

    return build


def labelled(judge: LLMJudge, text: str) -> list[tuple[str, str]]:
    return [(text[a:b], label) for a, b, label in judge.annotate([text])[0]]


@pytest.mark.parametrize("form", ["structured", "tagged", "auto"])
def test_spans_are_exact(make: Make, state: State, form: str) -> None:
    judge = make(format=form)
    found = judge.annotate(TEXTS)
    assert [(TEXTS[0][a:b], label) for a, b, label in found[0]] == [
        ("So x is 4.", "deduction"),
        ("Wait, no.", "backtracking"),
        ("It is five.", "deduction"),
    ]
    assert found[1] == found[3] != found[2] == []
    assert state.asked == {TEXTS[0]: 1, TEXTS[1]: 1}  # once a text, and nothing for an empty one
    assert all(("response_format" in body) is (form != "tagged") for body in state.bodies)
    assert judge.score(TEXTS)[0]["backtracking"] == pytest.approx(1 / 3)
    assert judge.score(TEXTS)[2] == {}


@pytest.mark.parametrize("form", ["structured", "tagged"])
def test_a_text_with_what_looks_like_tags(make: Make, form: str) -> None:
    assert labelled(make(format=form), TRICKY) == [
        ('The tag ["deduction"] is text.', "deduction"),
        ('Wait, so is ["end-section"] here.', "backtracking"),
        ('And ⟦0⟧ and [ "x" ] too.', "deduction"),
    ]
    shown = Tagged().messages(TRICKY, {"a": "b"})[-1]["content"]
    assert shown == "The tag ⟦1⟧ is text. Wait, so is ⟦2⟧ here. And ⟦0⟧ and ⟦3⟧ too."


@pytest.mark.parametrize("structured", [False, "refuse"])
def test_a_server_without_structured_output_is_found_out_once(make: Make, state: State, structured: Any) -> None:
    state.structured = structured
    judge = make()
    found = judge.annotate(TEXTS)
    assert [label for *_, label in found[0]] == ["deduction", "backtracking", "deduction"]
    assert state.asked == {TEXTS[0]: 2, TEXTS[1]: 1}
    judge.annotate(["Another. Wait."])
    assert state.asked["Another. Wait."] == 1
    asked = state.asked.total()
    assert make().annotate(TEXTS) == found  # and a later process needs no server to know
    assert state.asked.total() == asked


def test_one_answer_out_of_form_is_asked_again_as_tagged_text(make: Make, state: State) -> None:
    state.faults = {TEXTS[1]: ["prose"]}
    found = make().annotate(TEXTS)
    assert [label for *_, label in found[1]] == ["deduction", "backtracking", "deduction"]
    assert state.asked == {TEXTS[0]: 1, TEXTS[1]: 2}
    assert make().annotate(TEXTS) == found
    assert state.asked.total() == 3


def test_what_is_answered_replays_without_key_and_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving() as (url, _):
        options = {"base_url": url, "cache": str(tmp_path / "shared")}
        found = LLMJudge(**options).annotate(TEXTS)
    monkeypatch.delenv("OPENAI_API_KEY")
    judge = LLMJudge(**options)
    assert judge.annotate(TEXTS) == found
    assert judge.notes()["asked_now"] == 0
    assert judge.estimate(TEXTS)["calls"] == 0
    with pytest.raises(SteerkitError, match="the environment variable OPENAI_API_KEY is not set; set it, name another"):
        judge.annotate([*TEXTS, "A new one."])


def test_another_model_seed_or_taxonomy_is_another_question(make: Make, state: State, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("- deduction: A conclusion.\n- backtracking: A doubt.\n")
    for number, options in enumerate(
        [
            {},
            {"model": "gpt-4o-2024-11-20"},
            {"seed": 1},
            {"max_tokens": 99},
            {"extra_body": {"top_p": 0.5}},
            {"taxonomy": str(tmp_path / "own.yaml")},
        ],
        1,
    ):
        make(**options).annotate(TEXTS[:1])
        make(**options, max_concurrency=1, timeout=9).annotate(TEXTS[:1])
        assert state.asked.total() == number
    assert state.bodies[4]["top_p"] == 0.5
    assert "- backtracking: A doubt." in state.bodies[5]["messages"][0]["content"]
    assert "temperature" not in make(temperature=None).config.request([])


def test_what_was_lost_and_paid_is_noted(make: Make, state: State) -> None:
    def careless(text: str) -> list[tuple[str, str]]:
        return [("musing", "So x is 4."), ("deduction", "It is seven."), ("deduction", " "), ("deduction", "five.")]

    state.answer = careless
    judge = make(min_coverage=0.5)
    assert judge.annotate(TEXTS[:1]) == [[]]  # 5 of 24 characters
    notes = judge.notes()
    assert notes["mean_coverage"] == pytest.approx(5 / 24)
    assert (notes["left_out_traces"], notes["unlocated_spans"], notes["empty_spans"]) == (1, 1, 1)
    assert notes["rejected_spans"] == {"musing": 1}
    assert notes["answered_by"] == {SNAPSHOT: 1} and notes["system_fingerprints"] == ["fp_1"]
    assert (notes["input_tokens"], notes["output_tokens"], notes["asked_now"]) == (100, 100, 1)
    assert notes["dollars"] == pytest.approx(100 * 2.5e-6 + 100 * 10e-6)
    assert len(make(min_coverage=0).annotate(TEXTS[:1])[0]) == 1  # the same answer


def test_many_at_once_and_no_more(make: Make, state: State) -> None:
    texts = [f"Text {n}. Wait." for n in range(12)]
    state.faults = {text: ["slow:0.1"] for text in texts}
    found = make(max_concurrency=3, format="tagged").annotate(texts)
    assert [len(spans) for spans in found] == [2] * 12
    assert state.most_under_way == 3


def test_in_a_notebook_a_loop_is_running_already(make: Make) -> None:
    async def cell() -> list[Any]:
        return make().annotate(TEXTS)

    assert len(asyncio.run(cell())[0]) == 3


def test_the_estimate(make: Make, state: State) -> None:
    judge = make()
    before = judge.estimate(TEXTS)
    assert before["calls"] == 2 and before["input tokens"] > 200 and before["dollars"] > 0
    assert state.asked.total() == 0
    judge.annotate(TEXTS[:1])
    assert judge.estimate(TEXTS)["calls"] == 1
    assert "dollars" not in make(model="another").estimate(TEXTS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"api_key_env": KEY}, "must be the name of an environment variable"),
        ({"base_url": "localhost:8000/v1"}, r"must be an http\(s\) address"),
        ({"base_url": f"http://me:{KEY}@host/v1"}, "holds a password"),
        (
            {"max_cost": 1, "model": "another"},
            "max_cost needs input_price and output_price: none are known for another",
        ),
        ({"input_price": 1}, "give both"),
        ({"extra_body": {"messages": []}}, "extra_body may not hold messages"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        LLMJudge(**options)
    assert KEY not in str(caught.value)


def test_prices_of_other_models_are_given(make: Make) -> None:
    judge = make(model="another", input_price=1, output_price=2, max_cost=1)
    judge.annotate(TEXTS[:1])
    assert judge.notes()["dollars"] == pytest.approx(300e-6)


def test_an_answer_is_kept_with_its_request(make: Make, tmp_path: Path) -> None:
    make().annotate(TEXTS[:1])
    (row,) = map(json.loads, (tmp_path / "answers/answers.jsonl").read_text().splitlines())
    assert row["request"]["messages"][-1]["content"] == TEXTS[0]
    assert row["answer"]["model"] == SNAPSHOT and row["answer"]["system_fingerprint"] == "fp_1"
