"""Rows whose prompt and response stand in fields of their own, as chats that end in the response: rows to train on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from string import Formatter
from typing import Any

from steerkit.data.chats import messages_of
from steerkit.data.rows import chat_of, text_of
from steerkit.errors import Problem, SteerkitError, nearest


def fields_of(template: str) -> list[str]:
    """The fields that a template of responses names: ``{trace}``.

    Raises:
        SteerkitError: it names none, or is no template.
    """
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        raise SteerkitError(f"response: {template!r}: {error}; a brace that is text is doubled") from error
    names = [name for _, name, _, _ in parts if name is not None]
    wrong = [name for name in names if not name.isidentifier()]
    if not names or wrong:
        raise SteerkitError(
            f"response: {template!r} must name fields of the rows in braces, such as {{trace}}"
            + (f"; {{{wrong[0]}}} is no field's name" if wrong else "")
        )
    return names


def with_responses(
    rows: Iterable[tuple[str, Mapping[str, Any]]], template: str, problems: list[Problem]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(place, row) with the response as the last message of its chat; rows without one go to `problems`.

    Args:
        template: text with fields of the row in braces.

    Raises:
        SteerkitError: the template names no field.
    """
    names = fields_of(template)
    for where, row in rows:
        chat, wrong = chat_of(row)
        texts = {}
        for name in names:
            try:
                texts[name] = text_of(row.get(name))
                missing = not texts[name]
            except ValueError as error:
                wrong.append(f"{name!r} {error}")
                continue
            if missing:
                near = "" if name in row else f"; {nearest(name, [str(key) for key in row])}"
                wrong.append(f"has no {name!r} for its response{near}")
        problems += [Problem(where, what) for what in wrong]
        if wrong:
            continue
        said = [{"role": m.role, "content": m.content} for m in messages_of(chat)]
        own = {name: value for name, value in row.items() if name not in ("prompt", "messages")}
        yield where, {**own, "messages": [*said, {"role": "assistant", "content": template.format(**texts)}]}
