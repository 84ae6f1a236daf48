"""Rows of ``results.csv`` and ``comparisons.csv``, whatever their label columns are called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerkit.errors import SteerkitError
from steerkit.store.csv_tables import read_csv, read_header

Row = dict[str, Any]

RESULTS, COMPARISONS = "results.csv", "comparisons.csv"
FIGURES = {
    RESULTS: ("mean", "sd", "ci_low", "ci_high", "n_prompts", "n_apart", "degenerate"),
    COMPARISONS: ("delta", "ci_low", "ci_high", "n_prompts", "n_apart", "degenerate", "p", "p_holm"),
}
"""Columns with numbers that the report needs."""

OTHER = "vs_"
"""Begins the names of the columns that describe the condition that another is compared with."""


@dataclass(frozen=True)
class Rows:
    """A table of a run.

    Attributes:
        labels: names of the columns that tell conditions apart, in the table's order.
        rows: labels, experiment, split and metric as text; figures as numbers, None where there is no value.
    """

    labels: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()

    def of(self, experiment: str) -> list[Row]:
        """An experiment's rows of the test split."""
        return [row for row in self.rows if row["experiment"] == experiment and row["split"] == "test"]

    def other(self) -> tuple[str, ...]:
        """The columns of the condition that is compared with: ``vs_method`` for ``method``."""
        return tuple(name for name in (self.rows[0] if self.rows else ()) if name.startswith(OTHER))


def read_rows(path: Path) -> Rows:
    """Read a table. No rows where the file is not there.

    Raises:
        SteerkitError: the file is empty, or lacks a column that this version of steerkit writes.
    """
    if not path.is_file():
        return Rows()
    header = read_header(path)
    _check(path, header)
    labels = _labels(header)
    texts = {"experiment", "split", "metric", *labels, *(name for name in header if name.startswith(OTHER))}
    rows = read_csv(path, texts)
    return Rows(labels, tuple({k: (v or "") if k in texts else v for k, v in row.items()} for row in rows))


def _check(path: Path, header: Sequence[str]) -> None:
    if not header:
        raise SteerkitError(f"{path}: is empty; run the recipe into this folder again, which makes the tables again")
    lacking = [name for name in ("experiment", "split", "metric", *FIGURES[path.name]) if name not in header]
    if lacking:
        raise SteerkitError(
            f"{path}: has no column {', '.join(lacking)}: it was made by another version of steerkit; run the recipe "
            "into this folder again, which makes the tables again from the generations that are there"
        )


def _labels(header: Sequence[str]) -> tuple[str, ...]:
    between = header[header.index("split") + 1 : header.index("metric")]
    return tuple(name for name in between if not name.startswith(OTHER))
