"""What was tried, how many times, what was lost: rows of ``results.json``, one a thing tried."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Record:
    """One line of the table.

    Attributes:
        what: was done; a part after a colon is where.
        lost: trials that did not end as they must.
        seconds: that they took.
    """

    what: str
    tried: int
    lost: int
    seconds: float


def put(path: Path, records: Sequence[Record], *, instead: str | tuple[str, ...] = ()) -> None:
    """Put records in a file, in place of those of the same name, and of all whose names begin with `instead`."""
    before = [record for record in get(path) if not record.what.startswith(instead)]
    new = {record.what for record in records}
    rows = {record.what: record for record in [*(r for r in before if r.what not in new), *records]}
    lines = [json.dumps({**asdict(row), "seconds": round(row.seconds, 1)}, ensure_ascii=False) for row in rows.values()]
    path.write_text("[\n " + ",\n ".join(lines) + "\n]\n", encoding="utf-8")


def get(path: Path) -> list[Record]:
    return [Record(**row) for row in json.loads(path.read_text(encoding="utf-8"))] if path.is_file() else []
