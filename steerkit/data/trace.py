"""Prompts, traces and spans: the text artifacts, each one jsonl line."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import jsonlines

from steerkit.data.chats import Chat, parse_chat
from steerkit.errors import InputError, Problem, SteerkitError
from steerkit.store.strict_json import loads
from steerkit.store.text_files import lines_of, open_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A question to a model. `answer` is there where it can be checked; `split` says what it is used for."""

    id: str
    prompt: Chat
    category: str = ""
    answer: str = ""
    split: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What a reasoning model wrote on a prompt, with the very ids it generated.

    Attributes:
        text: the reasoning, decoded; what follows the end-of-thinking marker is in `answer_text`.
        prompt_ids: ids of the formatted prompt, chat template included. What its end shares with the beginning of an
            imported text (``<think>``) is left to the text.
        ids: generated ids, answer included, without padding.
        starts: character in `text + answer_text` at which each generated token starts, len(ids); what a start is says
            `steerkit.data.tokens.Decoded`.
        continues: indices in `ids` of tokens that continue a character which a token before them began. Files leave
            the field out where it is empty.
    """

    id: str
    prompt_id: str
    prompt: Chat
    text: str
    answer_text: str = ""
    prompt_ids: tuple[int, ...] = ()
    ids: tuple[int, ...] = ()
    starts: tuple[int, ...] = ()
    finished: bool = False
    continues: tuple[int, ...] = ()

    @property
    def tokens(self) -> tuple[int, ...]:
        """Prompt and trace ids, the sequence that an extraction forward reads."""
        return self.prompt_ids + self.ids

    @property
    def thinking(self) -> int:
        """Number of generated tokens that belong to the reasoning, not to the answer after it."""
        return bisect_left(self.starts, len(self.text)) if self.answer_text else len(self.ids)

    def token_span(self, start: int, end: int) -> tuple[int, int]:
        """First and last index in `tokens` of the tokens that overlap characters [start, end) of `text`.

        (-1, -1) for a trace that no tokenizer has seen yet.
        """
        if not self.ids:
            return -1, -1
        offset = len(self.prompt_ids)
        first = first_token(self.starts, self.continues, start)
        last = bisect_left(self.starts, end) - 1
        return offset + first, offset + max(last, first)


def first_token(starts: Sequence[int], continues: Collection[int], character: int) -> int:
    """Index of the first token that overlaps a character: the one that holds its first byte.

    Tokens without text of their own start there too, but do not overlap it.
    """
    first = max(bisect_right(starts, character) - 1, 0)
    while first in continues and starts[first] == character:
        first -= 1
    return first


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Labelled characters [start, end) of a trace's text, and the tokens [first, last] in prompt + trace ids.

    Tokens of -1 are not known yet. A run that reads spans places them by the characters, with its own tokenizer.
    """

    trace_id: str
    label: str
    judge: str
    start: int
    end: int
    first: int
    last: int


@dataclass(frozen=True)
class Item:
    """A trace with its spans, and the ids that the model to be read gets for it."""

    trace: Trace
    spans: Sequence[Span]
    ids: Sequence[int]

    @property
    def name(self) -> str:
        """For errors."""
        return f"trace {self.trace.id!r}"

    @property
    def order(self) -> str:
        """Where it stands among items of its length."""
        return self.trace.id

    @property
    def cells(self) -> int:
        """Sums that it fills at every layer and offset: one for each label."""
        return max(len({span.label for span in self.spans}), 1)


Row = TypeVar("Row", Prompt, Trace, Span)
_INTEGERS = range(-(2**31), 2**31)


def write_rows(path: Path, rows: Iterable[Prompt | Trace | Span]) -> None:
    """Write rows as jsonl, whole or not at all."""
    from steerkit.store.files import atomic

    with atomic(path) as temporary, jsonlines.open(temporary, "w") as out:
        out.write_all(map(_as_json, rows))


def _as_json(row: Prompt | Trace | Span) -> dict[str, Any]:
    found = asdict(row)
    if not found.get("continues", True):
        del found["continues"]
    return found


def read_rows(path: Path | str, kind: type[Row]) -> list[Row]:
    """Read jsonl rows of one kind.

    Raises:
        InputError: every malformed line, by number: not JSON, a missing or unknown field, a wrong type.
        SteerkitError: the file is missing or holds no row.
    """
    return list(numbered_rows(Path(path), kind).values())


def numbered_rows(path: Path, kind: type[Row], *, extras: bool = False) -> dict[int, Row]:
    """Line number → row, as `read_rows`; with `extras`, unknown fields are no error, and are left out."""
    known = {f.name for f in fields(kind)}
    rows: dict[int, Row] = {}
    problems: list[Problem] = []
    for number, value in read_jsonl(path, problems):
        if extras and isinstance(value, dict):
            value = {k: v for k, v in value.items() if k in known}
        problem = _wrong(value, kind)
        if problem:
            problems.append(Problem(f"{path}:{number}", problem))
        else:
            rows[number] = from_json(kind, value)
    if problems:
        raise InputError(f"{path}", sorted(problems, key=lambda p: int(p.where.rsplit(":", 1)[1])))
    if not rows:
        raise SteerkitError(f"{path}: holds no rows; each line is a JSON object with {_required(kind)}")
    return rows


def from_json(kind: type[Row], value: dict[str, Any]) -> Row:
    """A row of its JSON object; keys that are not its fields are left out."""
    known: dict[str, Any] = {f.name: value[f.name] for f in fields(kind) if f.name in value}
    known = {k: tuple(v) if isinstance(v, list | tuple) else v for k, v in known.items()}
    if isinstance(known.get("prompt"), tuple):
        known["prompt"] = parse_chat(known["prompt"])[0]
    return kind(**known)


def read_jsonl(path: Path, problems: list[Problem], *, keep_numbers: bool = False) -> list[tuple[int, Any]]:
    """(line number, value) of each line; malformed lines go to `problems`.

    Args:
        keep_numbers: as in `strict_json.loads`.

    Raises:
        SteerkitError: the file can't be read, or is not UTF-8.
    """
    with open_text(path) as file:
        reader = jsonlines.Reader(lines_of(file, path), loads=partial(loads, keep_numbers=keep_numbers))
        found = []
        number = 0
        while True:
            number += 1
            try:
                found.append((number, reader.read(skip_empty=False)))
            except EOFError:
                return found
            except jsonlines.InvalidLineError as error:
                if str(error.line).strip():
                    problems.append(Problem(f"{path}:{number}", f"not a JSON line ({error.__cause__ or error})"))


def _required(kind: type) -> str:
    from dataclasses import MISSING

    return ", ".join(repr(f.name) for f in fields(kind) if f.default is MISSING)


def _wrong(value: Any, kind: type) -> str:
    """What is wrong with a row, or an empty string."""
    if not isinstance(value, dict):
        return f"a JSON object was expected, not {type(value).__name__}"
    known = {f.name: str(f.type) for f in fields(kind)}
    from dataclasses import MISSING

    missing = [f.name for f in fields(kind) if f.default is MISSING and f.name not in value]
    if missing:
        return f"the field{'s' if len(missing) > 1 else ''} {', '.join(map(repr, missing))} missing"
    unknown = sorted(set(value) - set(known))
    if unknown:
        return f"unknown field {unknown[0]!r}; known are {', '.join(known)}"
    types: dict[str, type | tuple[type, ...]] = {"str": str, "int": int, "bool": bool}
    for name, item in value.items():
        if known[name] == "Chat":
            problems = [] if isinstance(item, str) else parse_chat(item)[1]
            if problems:
                return f"{name!r}: {'; '.join(problems)}"
            continue
        wanted = types.get(known[name], (list, tuple))
        if not isinstance(item, wanted) or (known[name] == "int" and isinstance(item, bool)):
            return f"{name!r} must be {known[name]}, not {type(item).__name__}"
        numbers: Any = item if wanted == (list, tuple) else [item] if known[name] == "int" else ()
        if not all(type(number) is int and number in _INTEGERS for number in numbers):
            return f"{name!r} must hold whole numbers of at most 31 bits"
    return _misplaced(value) if kind is Trace else ""


def _misplaced(value: Mapping[str, Any]) -> str:
    """What is wrong with a trace's tokens, or an empty string."""
    ids, starts = value.get("ids", ()), value.get("starts", ())
    if len(starts) != len(ids):
        return f"'starts' must have a place for each of the {len(ids)} 'ids'; it has {len(starts)}"
    end = len(value["text"]) + len(value.get("answer_text", ""))
    if starts and (starts[0] < 0 or starts[-1] > end or any(a > b for a, b in pairwise(starts))):
        return f"'starts' must be places in the text's {end} characters, in order"
    places = (0, *value.get("continues", ()), len(ids))
    if len(places) > 2 and any(a >= b for a, b in pairwise(places)):
        return f"'continues' must be places among the {len(ids)} 'ids' behind the first, in order"
    return ""


def spans_by_trace(spans: Iterable[Span]) -> dict[str, list[Span]]:
    """Spans of each trace, in the order of their first token."""
    found: dict[str, list[Span]] = {}
    for span in sorted(spans, key=lambda s: (s.trace_id, s.first, s.start)):
        found.setdefault(span.trace_id, []).append(span)
    return found
