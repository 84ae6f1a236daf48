"""Prompts are texts or chats: what is taken, what is refused in which words, and that they come back from disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steerkit.data.chats import Message, as_text, identity, messages_of, parse_chat, to_json
from steerkit.data.rows import as_prompts, text_of
from steerkit.data.splits import assign_splits
from steerkit.data.trace import Prompt, Trace, from_json, read_rows, write_rows
from steerkit.errors import InputError, SteerkitError

SYSTEM, USER = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "How many?"}
ANSWER = {"role": "assistant", "content": "Three."}
CHAT = (Message("system", "Be brief."), Message("user", "How many?"))


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def test_texts_and_chats_are_taken() -> None:
    assert parse_chat("How many?") == ("How many?", [])
    assert parse_chat([SYSTEM, USER]) == (CHAT, [])
    assert parse_chat(CHAT) == (CHAT, [])
    long = [SYSTEM, USER, ANSWER, USER, ANSWER]  # the last one is continued
    assert parse_chat(long)[1] == []
    assert to_json(parse_chat(long)[0]) == long
    parts = [{"type": "text", "text": "How "}, {"type": "text", "text": "many?", "image_url": None}]
    assert parse_chat([user(parts)]) == ((Message("user", "How many?"),), [])
    filled = [{"role": "user", "content": "x", "name": None, "tool_calls": None}]  # as tables fill rows up
    assert parse_chat(filled) == ((Message("user", "x"),), [])
    assert parse_chat(np.array([SYSTEM, USER], dtype=object)) == (CHAT, [])
    (text, wrong), plain = parse_chat(np.str_("x")), "x"
    assert (text, type(text), wrong) == (plain, str, [])


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "must be a text or a list of messages, not null"),
        (float("nan"), "not NaN, which tables have for an empty cell"),
        (7, "not a number"),
        (True, "not true or false"),
        ({"role": "user", "content": "x"}, "not a mapping (with 'role', 'content')"),
        (b"x", "not bytes"),
        (" \n", "is empty"),
        ([], "is an empty list of messages"),
        ("x\ud83d", "has half of a surrogate pair"),
        ('[{"role": "user", "content": "x"}]', "is a list of messages written as a text"),
        ("[{'content': 'x', 'role': 'user'}]", "is a list of messages written as a text"),
        (["x"], "message 1 must be a mapping with 'role' and 'content', not str"),
        ([[USER]], "message 1 must be a mapping with 'role' and 'content', not a list; one prompt is one"),
        ([{"from": "human", "value": "x"}], "message 1 has 'from' and 'value'; rename them to 'role'"),
        ([{"content": "x"}], "message 1 has no 'role'"),
        ([{"role": "user"}], "message 1 has no 'content'"),
        ([user(" ")], "message 1 is empty"),
        ([user(3)], "message 1 has a 'content' that is a number, not a text"),
        ([user([])], "message 1 is empty"),
        ([{"role": "bot", "content": "x"}], "message 1 has the unknown role 'bot'; roles are system, user, assistant"),
        ([USER, {"role": "tool", "content": "4"}], "message 2 is a tool's turn (role 'tool')"),
        ([USER, {"role": "assistant", "content": None, "tool_calls": [{"id": "a"}]}], "message 2 calls tools"),
        ([user([{"type": "image_url", "image_url": {"url": "a.png"}}])], "has a part 1 of the type 'image_url'"),
        ([user([{"type": "text", "text": "x"}, {"type": "input_audio"}])], "a part 2 of the type 'input_audio'"),
        ([user(["x"])], "message 1 has a part 1 that is str, not a text part"),
        ([user([{"type": "text"}])], "message 1 has a text part 1 without 'text'"),
        ([{**USER, "weight": 0}], "message 1 has 'weight', which would be lost"),
        ([USER, SYSTEM], "message 2 is the system message, which must come first"),
        ([SYSTEM, SYSTEM, USER], "message 2 is a second system message; there is one at most"),
        ([SYSTEM, ANSWER], "has no user message"),
    ],
)
def test_anything_else_is_refused(value: Any, said: str) -> None:
    wrong = parse_chat(value)[1]
    assert len(wrong) == 1 and said in wrong[0]


def test_all_that_is_wrong_with_a_chat_is_said() -> None:
    wrong = parse_chat([user(""), {"role": "tool", "content": "4"}, SYSTEM])[1]
    assert [w.split()[1] for w in wrong] == ["1", "2", "3"]


def test_a_text_is_a_lone_user_message() -> None:
    lone = (Message("user", "x"),)
    assert messages_of("x") == messages_of(lone) == lone
    assert identity("x") == identity(lone) == "x"
    assert len({identity(chat) for chat in ("x", CHAT, CHAT[1:], (*CHAT, Message("assistant", "x")))}) == 4
    assert as_text("x") == "x"
    assert as_text(CHAT) == "[system]\nBe brief.\n\n[user]\nHow many?"


def test_rows_of_every_form_become_prompts() -> None:
    given = [
        "a",
        [SYSTEM, USER],
        {"prompt": [user("b")], "answer": "007"},
        {"messages": [SYSTEM, USER], "id": 7},
        {"prompt": None, "messages": [user("c")]},
        {"prompt": "d", "messages": [USER, ANSWER]},
        Prompt(id="mine", prompt="e", split="test"),
    ]
    found = as_prompts(given)
    assert [to_json(p.prompt) for p in found] == [
        "a",
        [SYSTEM, USER],
        [user("b")],
        [SYSTEM, USER],
        [user("c")],
        "d",
        "e",
    ]
    assert [p.id for p in found] == ["p00000", "p00001", "p00002", "7", "p00004", "p00005", "mine"]
    assert (found[2].answer, found[6]) == ("007", given[6])


def test_a_data_set_object_gives_prompts() -> None:
    from datasets import Dataset

    rows = [{"messages": [SYSTEM, USER], "answer": 2}, {"messages": [USER], "answer": None}]
    found = as_prompts(Dataset.from_list(rows))
    assert [(to_json(p.prompt), p.answer) for p in found] == [([SYSTEM, USER], "2"), ([USER], "")]


def test_every_row_without_a_prompt_is_named() -> None:
    rows: list[Any] = [
        "fine",
        " ",
        {"promt": "x"},
        {"prompt": None},
        {"prompt": [user("")]},
        USER,
        float("nan"),
        {"prompt": "x", "answer": [1, 2]},
        Prompt(id="p", prompt=({"role": "tool"},)),
    ]  # type: ignore[arg-type]
    with pytest.raises(InputError) as caught:
        as_prompts(rows)
    assert [str(p) for p in caught.value.problems] == [
        "prompts[1]: is empty",
        "prompts[2]: has no 'prompt' (a text, or messages) and no 'messages'; did you mean 'prompt'?",
        "prompts[3]: 'prompt' is null",
        "prompts[4]: 'prompt': message 1 is empty",
        "prompts[5]: is a single message; a prompt is a text or a list of messages",
        "prompts[6]: must be a text or a list of messages, not NaN, which tables have for an empty cell",
        "prompts[7]: 'answer' must be a text, not a list",
        "prompts[8]: 'prompt': message 1 is a tool's turn (role 'tool'); prompts hold system, user and assistant "
        "texts alone",
        "prompts[8]: 'prompt': message 1 has no 'content'",
    ]


def test_what_is_no_list_of_prompts_is_refused() -> None:
    import pandas
    from datasets import Dataset, DatasetDict

    splits = DatasetDict({"train": Dataset.from_list([{"prompt": "x"}])})
    for given, said in (
        ("How many?", "not one text"),
        (splits, "choose one of 'train'"),
        (pandas.DataFrame({"prompt": ["x"]}), 'table.to_dict("records")'),
    ):
        with pytest.raises(InputError) as caught:
            as_prompts(given)
        assert said in str(caught.value)


def test_cells_as_text() -> None:
    cells = ("007", 7, 2.0, 2.5, True, np.int64(3), np.float64(0.5), None, float("nan"), " x ")
    assert [text_of(cell) for cell in cells] == ["007", "7", "2.0", "2.5", "true", "3", "0.5", "", "", " x "]
    for cell in ([1], {"a": 1}, b"x"):
        with pytest.raises(ValueError, match="must be a text, not"):
            text_of(cell)


def test_chats_are_dealt_to_the_splits() -> None:
    counts = {"extract": 2, "choose": 1, "test": 1}
    chats = as_prompts([[SYSTEM, user(f"question {i}")] for i in range(6)])
    found = assign_splits(chats, counts, seed=0)
    assert {p.id: p.split for p in found} == {p.id: p.split for p in assign_splits(chats[::-1], counts, seed=0)}
    texts, lone = ([form(f"question {i}") for i in range(6)] for form in (str, lambda text: [user(text)]))
    dealt = [[p.split for p in assign_splits(as_prompts(rows), counts, seed=3)] for rows in (texts, lone)]
    assert dealt[0] == dealt[1]
    twice = [Prompt(id="a", prompt="x", split="test"), Prompt(id="b", prompt=(Message("user", "x"),), split="choose")]
    with pytest.raises(SteerkitError, match="have the same text"):
        assign_splits([*twice, *chats], counts, seed=0)


def test_chats_come_back_from_disk(tmp_path: Path) -> None:
    prompt = Prompt(id="a", prompt=CHAT, split="test")
    trace = Trace(id="a", prompt_id="a", prompt=CHAT, text="x", prompt_ids=(1,), ids=(2,), starts=(0,))
    for row, kind in ((prompt, Prompt), (trace, Trace)):
        path = tmp_path / "rows.jsonl"
        write_rows(path, [row])
        written = json.loads(path.read_text())
        assert written["prompt"] == [SYSTEM, USER]
        assert read_rows(path, kind) == [row] == [from_json(kind, written)]
    path.write_text(json.dumps({"id": "a", "prompt": [USER, {"role": "tool", "content": "4"}]}) + "\n")
    with pytest.raises(InputError, match=r"rows\.jsonl:1: 'prompt': message 2 is a tool's turn"):
        read_rows(path, Prompt)
