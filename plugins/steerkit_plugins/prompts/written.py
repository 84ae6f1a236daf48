"""Rows of CSV and JSON files with every cell as the file writes it: 007 stays 007, NA stays NA, a date stays a text.

Readers of tables (pandas, pyarrow) guess types and empty cells, and shift columns where a row is too long.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from steerkit.data.trace import read_jsonl
from steerkit.errors import Problem, SteerkitError
from steerkit.store.strict_json import loads
from steerkit.store.text_files import LONGEST, lines_of, open_text

LARGEST = 2**30  # bytes of a file with one JSON list

Rows = list[tuple[str, dict[str, Any]]]
"""(place, row)"""


def csv_rows(path: Path, shown: str, delimiter: str, problems: list[Problem]) -> Rows:
    """Rows of a CSV file with a header line; malformed ones go to `problems`.

    Args:
        shown: name of the file for people.
    """
    csv.field_size_limit(LONGEST)
    with open_text(path, newline="") as file:
        reader = _records(lines_of(file, path), delimiter, shown, problems)
        header = next(reader, (1, []))[1]
        if twice := sorted({name for name in header if header.count(name) > 1}):
            problems.append(Problem(f"{shown}:1", f"has the column {twice[0]!r} twice"))
        found = []
        for line, cells in reader:
            if len(cells) != len(header):
                problems.append(
                    Problem(f"{shown}:{line}", f"has {len(cells)} cells, where the header has {len(header)}")
                )
            else:
                found.append((f"{shown}:{line}", dict(zip(header, cells, strict=True))))
    return found


def _records(
    lines: Iterable[str], delimiter: str, shown: str, problems: list[Problem]
) -> Iterator[tuple[int, list[str]]]:
    """(first line, cells) of each record that is not blank."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problems.append(Problem(f"{shown}:{line}", f"is not CSV: {error}"))
            return
        if cells:
            yield line, cells


def json_rows(path: Path, shown: str, problems: list[Problem]) -> Rows:
    """Rows of a file with a JSON object a line, or with one list of objects; malformed ones go to `problems`."""
    if _is_list(path):
        return list(_objects(((f"{shown}[{number}]", row) for number, row in enumerate(_list(path, shown))), problems))
    own: list[Problem] = []
    rows = read_jsonl(path, own, keep_numbers=True)
    problems += [Problem(p.where.replace(str(path), shown, 1), p.message) for p in own]
    return list(_objects(((f"{shown}:{number}", row) for number, row in rows), problems))


def _is_list(path: Path) -> bool:
    with open_text(path) as file:
        return file.read(LONGEST).lstrip().startswith("[")


def _list(path: Path, shown: str) -> list[Any]:
    if path.stat().st_size > LARGEST:
        raise SteerkitError(f"{shown}: is a JSON list of more than {LARGEST // 2**30} GiB; write an object a line")
    try:
        with open_text(path) as file:
            value = loads(file.read(), keep_numbers=True)
    except ValueError as error:
        raise SteerkitError(f"{shown}: is not JSON: {error}") from error
    return value if isinstance(value, list) else [value]


def _objects(rows: Iterable[tuple[str, Any]], problems: list[Problem]) -> Iterator[tuple[str, dict[str, Any]]]:
    for where, row in rows:
        if isinstance(row, dict):
            yield where, row
        else:
            problems.append(Problem(where, f"must be an object with a value for each column, not {type(row).__name__}"))
