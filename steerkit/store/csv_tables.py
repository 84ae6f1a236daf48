"""csv tables: floats with six significant digits, NaN as nothing; read back with types."""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from steerkit.store.files import atomic


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows; a column that a row lacks is empty there."""
    with atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows({name: _cell(row.get(name, "")) for name in columns} for row in rows)


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return value


def read_csv(path: Path, text: Collection[str] = ()) -> list[dict[str, Any]]:
    """Rows of `write_csv`; empty cells are None.

    Args:
        text: columns that hold names: a label called 007, NA or True stays that. Others are read as numbers and
            booleans where they look like them.
    """
    with path.open(newline="", encoding="utf-8") as file:
        return [{k: (v or None) if k in text else _parse(v) for k, v in row.items()} for row in csv.DictReader(file)]


def read_header(path: Path) -> list[str]:
    """Names of the columns of a table; none where it is empty."""
    with path.open(newline="", encoding="utf-8") as file:
        return next(csv.reader(file), [])


def _parse(text: str) -> Any:
    if text in ("True", "False"):
        return text == "True"
    try:
        return float(text) if text else None
    except ValueError:
        return text
