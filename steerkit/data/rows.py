"""Rows of files, data sets and lists to prompts: what is taken, and every row that can't be."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from steerkit.data.chats import Chat, kind_of, parse_chat
from steerkit.data.trace import Prompt
from steerkit.errors import InputError, Problem, nearest

TEXTS = ("id", "category", "answer", "split")
"""Fields of a prompt that are plain text."""


def as_prompts(rows: Iterable[Any]) -> list[Prompt]:
    """Prompts of a list or a `datasets.Dataset`, ids filled in.

    Args:
        rows: each one a text, a list of messages, a mapping with `prompt` or `messages` (and `id`, `category`,
            `answer`, `split` if known), or a Prompt.

    Raises:
        InputError: every row that is none of these, or holds a prompt that can't be used.
        SteerkitError: `rows` is one prompt, or a table, and no list of rows.
    """
    if isinstance(rows, str | Mapping) or hasattr(rows, "iterrows"):
        raise InputError("prompts", [Problem("prompts", _no_list(rows))])
    problems: list[Problem] = []
    found = prompts_of(((f"prompts[{number}]", row) for number, row in enumerate(rows)), problems)
    if problems:
        raise InputError("prompts", problems)
    return found


def _no_list(rows: Any) -> str:
    if isinstance(rows, str):
        return "must be a list of prompts, not one text; put it in a list"
    if isinstance(rows, Mapping):
        return f"must be a list of prompts, not a mapping; choose one of {', '.join(map(repr, list(rows)[:8]))}"
    return 'must be a list of prompts, not a table; give its rows, such as table.to_dict("records")'


def prompts_of(rows: Iterable[tuple[str, Any]], problems: list[Problem]) -> list[Prompt]:
    """Prompts of (place, row), numbered where they have no id; rows that are none go to `problems`."""
    found = []
    for number, (where, row) in enumerate(rows):
        fields, wrong = _fields(row)
        problems += [Problem(where, what) for what in wrong]
        if not wrong:
            found.append(Prompt(**{"id": f"p{number:05d}", **fields}))
    return found


def _fields(row: Any) -> tuple[dict[str, Any], list[str]]:
    """A prompt's fields, and what is wrong with them."""
    if isinstance(row, Prompt):
        row = {name: getattr(row, name) for name in ("prompt", *TEXTS)}
    if not isinstance(row, Mapping):
        chat, wrong = parse_chat(row)
        return {"prompt": chat}, wrong
    chat, wrong = chat_of(row)
    texts = {}
    for name in TEXTS:
        try:
            texts[name] = text_of(row.get(name))
        except ValueError as error:
            wrong.append(f"{name!r} {error}")
    return {"prompt": chat, **{name: text for name, text in texts.items() if text}}, wrong


def chat_of(row: Mapping[str, Any]) -> tuple[Chat, list[str]]:
    """What a row has under `prompt` or else under `messages`, and what is wrong with it."""
    name = next((name for name in ("prompt", "messages") if row.get(name) is not None), None)
    if name is not None:
        chat, wrong = parse_chat(row[name])
        return chat, [f"{name!r} {what}" if not what.startswith("message ") else f"{name!r}: {what}" for what in wrong]
    there = [name for name in ("prompt", "messages") if name in row]
    if there:
        return "", [f"{there[0]!r} is null"]
    if "role" in row and "content" in row:
        return "", ["is a single message; a prompt is a text or a list of messages"]
    near = [text for key in map(str, row) if (text := nearest(key, ["prompt", "messages"])).startswith("did you")]
    return "", [f"has no 'prompt' (a text, or messages) and no 'messages'{f'; {near[0]}' if near else ''}"]


def text_of(value: Any) -> str:
    """The text of a cell: a text as it is, a number as its file writes it, true and false as JSON writes them.

    An empty text stands for nothing: null, and NaN, which tables have for an empty cell.

    Raises:
        ValueError: a list, a mapping or anything else that is no text.
    """
    if hasattr(value, "item"):  # numpy's scalars
        value = value.item()
    if isinstance(value, str):
        return str(value)
    if value is None or value != value:
        return ""
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    raise ValueError(f"must be a text, not {kind_of(value)}")
