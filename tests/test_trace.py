"""Rows as jsonl: there and back, and every malformed line by its number."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steerkit.data.trace import Prompt, Span, Trace, read_rows, spans_by_trace, write_rows
from steerkit.errors import InputError, SteerkitError

TRACE = Trace(
    id="t",
    prompt_id="p",
    prompt="q “€”\u2028",
    text="a\nb\u2028c",
    answer_text="</think>",
    prompt_ids=(1, 2),
    ids=(3, 4),
    starts=(0, 2),
    finished=True,
)


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_rows_there_and_back(tmp_path: Path) -> None:
    span = Span(trace_id="t", label="backtracking", judge="rules", start=0, end=3, first=2, last=3)
    for kind, rows in (
        (Trace, [TRACE, TRACE]),
        (Span, [span]),
        (Prompt, [Prompt(id="a", prompt="x", split="test")]),
    ):
        write_rows(tmp_path / "rows.jsonl", rows)
        assert read_rows(tmp_path / "rows.jsonl", kind) == rows


def test_every_malformed_line_is_named(tmp_path: Path) -> None:
    good = json.dumps({"id": "a", "prompt": "x"})
    path = write(
        tmp_path / "prompts.jsonl",
        good,
        "{broken",
        "",
        "[1]",
        json.dumps({"id": "b"}),
        json.dumps({"id": "c", "prompt": "x", "promt": "y"}),
        json.dumps({"id": 7, "prompt": "x"}),
        good,
    )
    with pytest.raises(InputError) as caught:
        read_rows(path, Prompt)
    text = str(caught.value)
    assert [p.where.rsplit(":", 1)[1] for p in caught.value.problems] == ["2", "4", "5", "6", "7"]
    assert text.startswith(f"{path}: 5 problems\n")
    for part in (
        "not a JSON line",
        "a JSON object was expected, not list",
        "the field 'prompt' missing",
        "unknown field 'promt'",
        "'id' must be str, not int",
    ):
        assert part in text


def test_a_bool_is_no_number(tmp_path: Path) -> None:
    row = {"trace_id": "t", "label": "l", "judge": "j", "start": True, "end": 3, "first": 2, "last": 3}
    with pytest.raises(InputError, match="'start' must be int, not bool"):
        read_rows(write(tmp_path / "s.jsonl", json.dumps(row)), Span)


def test_files_that_hold_nothing(tmp_path: Path) -> None:
    with pytest.raises(SteerkitError, match=r"none\.jsonl: can't be read: No such file"):
        read_rows(tmp_path / "none.jsonl", Prompt)
    with pytest.raises(SteerkitError, match=r"holds no rows; each line is a JSON object with 'id', 'prompt'"):
        read_rows(write(tmp_path / "empty.jsonl", ""), Prompt)
    (tmp_path / "latin.jsonl").write_bytes(b'{"id": "a", "prompt": "\xe9"}\n')
    with pytest.raises(SteerkitError, match=r"latin\.jsonl:1: not UTF-8 \(byte 24 of the line is 0xE9\)"):
        read_rows(tmp_path / "latin.jsonl", Prompt)


def test_spans_of_each_trace_in_order() -> None:
    spans = [
        Span(trace_id=t, label="l", judge="j", start=s, end=s + 1, first=s, last=s)
        for t, s in (("b", 4), ("a", 9), ("b", 1), ("a", 2))
    ]
    found = spans_by_trace(spans)
    assert {t: [s.first for s in rows] for t, rows in found.items()} == {"a": [2, 9], "b": [1, 4]}


def test_the_sequence_is_prompt_then_trace() -> None:
    assert TRACE.tokens == (1, 2, 3, 4)
