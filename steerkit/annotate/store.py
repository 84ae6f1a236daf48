"""One annotator's labels on disk: a row a key press, whole on the disk before the page goes on."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from steerkit.annotate.tasks import Place, Task
from steerkit.data.trace import Span, from_json
from steerkit.errors import InputError, Problem, SteerkitError
from steerkit.store.files import append_jsonl, disk_error
from steerkit.store.strict_json import loads

ADJUDICATED = "adjudicated"
HUMAN = "human:"

LARGEST = 256 * 2**20  # bytes of an annotator's file

Row = dict[str, Any]
Action = Literal["label", "skip", "undo", "again", "import"]

FIELDS: Mapping[str, type] = {
    "trace_id": str,
    "label": str,
    "judge": str,
    "start": int,
    "end": int,
    "first": int,
    "last": int,
    "digest": str,
    "action": str,
}
"""Of a row: those of `Span`, its text's digest, and what the annotator did; an empty label is none."""


def folder_of(run: Path) -> Path:
    return run / "annotations"


def annotators(run: Path) -> list[str]:
    """Everybody who labelled spans of a run, the adjudicator aside."""
    return sorted(path.stem for path in folder_of(run).glob("*.jsonl") if path.stem != ADJUDICATED)


def labels_of(rows: Iterable[Row]) -> dict[Place, Row]:
    """The last row of each span that has a label."""
    last = {(row["trace_id"], row["start"], row["end"]): row for row in rows}
    return {place: row for place, row in last.items() if row["label"]}


def spans_of(rows: Iterable[Row]) -> list[Span]:
    """The labelled spans of an annotation file's rows, by text and place."""
    return [from_json(Span, row) for _, row in sorted(labels_of(rows).items())]


def read_log(path: Path, *, repair: bool = False) -> list[Row]:
    """Rows of an annotation file. A last line that a killed process left torn does not count.

    Args:
        repair: cut that line off; only for the one who holds the file.

    Raises:
        InputError: every damaged line.
        SteerkitError: the file can't be read.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise SteerkitError(f"{path}: is larger than {LARGEST // 2**20} MiB, which nobody's labels are")
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if repair and len(whole) < len(data):
            os.truncate(path, len(whole))
    except OSError as error:
        raise SteerkitError(f"{path}: can't be read: {error.strerror}") from error
    rows, problems = [], []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            row = loads(line)
        except ValueError as error:
            problems.append(Problem(f"{path}:{number}", f"not a JSON line ({error})", "mend or delete it"))
            continue
        wrong = [name for name, kind in FIELDS.items() if not isinstance(row, dict) or type(row.get(name)) is not kind]
        if wrong:
            problems.append(
                Problem(f"{path}:{number}", f"not a row of an annotation: {', '.join(wrong)} missing or wrong")
            )
        rows.append(row)
    if problems:
        raise InputError(str(path), problems)
    return rows


def check_name(run: Path, name: str) -> None:
    """Raises: SteerkitError when an annotator can't be called that."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}", name):
        raise SteerkitError(f"--annotator {name!r}: use letters, digits, dots, dashes and underscores, at most 40")
    if name.casefold() == ADJUDICATED:
        raise SteerkitError(f"--annotator {name}: is what decisions are kept under; use --adjudicate, or another name")
    twin = next((n for n in annotators(run) if n != name and n.casefold() == name.casefold()), None)
    if twin:
        raise SteerkitError(f"--annotator {name}: there is {twin!r} already, which differs only in case; write it so")


class Store:
    """An annotator's file. Use as a context manager: one process at a time holds it.

    Attributes:
        rows: everything that was done, in order; the last row of a span counts.
    """

    def __init__(self, run: Path, name: str) -> None:
        self.path = folder_of(run) / f"{name}.jsonl"
        self.judge = HUMAN + name
        self.rows: list[Row] = []
        self._last: dict[Place, Row] = {}
        self._done: list[tuple[Place, Row | None]] = []  # what undo goes back to
        self._lock = FileLock(folder_of(run) / f".{name}.lock", timeout=0)

    def __enter__(self) -> Store:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout as error:
            raise SteerkitError(
                f"{self.path}: {self.path.stem!r} is annotating this run in another process; go on there or end it, "
                "or choose another --annotator name"
            ) from error
        except OSError as error:
            raise disk_error(self.path, error) from error
        for row in read_log(self.path, repair=True) if self.path.exists() else []:
            self._take(row)
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def label(self, task: Task) -> str:
        """The task's label, empty when it has none."""
        return str(self._last.get(task.place, {}).get("label", ""))

    def skipped(self, task: Task) -> bool:
        return self._last.get(task.place, {}).get("action") == "skip"

    def put(self, action: Action, *tasks: Task, label: str = "") -> None:
        """Label or skip tasks, or have skipped ones come again."""
        self.extend([self._row(task, action, label) for task in tasks])

    def extend(self, rows: list[Row]) -> None:
        """Keep rows. Raises: SteerkitError when they can't be written; none of them is kept then."""
        if rows:
            append_jsonl(self.path, rows)
        for row in rows:
            self._take(row)

    @property
    def undoable(self) -> Place | None:
        """The span that `undo` would change."""
        return self._done[-1][0] if self._done else None

    def undo(self, task: Task) -> None:
        """Give the task that `undoable` names the label back that it had before, if any."""
        before = self._done[-1][1]
        self.extend([self._row(task, "undo", before["label"] if before else "")])

    def _row(self, task: Task, action: Action, label: str) -> Row:
        (trace_id, start, end), (first, last) = task.place, task.tokens
        return {
            "trace_id": trace_id,
            "label": label,
            "judge": self.judge,
            "start": start,
            "end": end,
            "first": first,
            "last": last,
            "digest": task.text.digest,
            "action": action,
            "at": time.strftime("%FT%TZ", time.gmtime()),
        }

    def _take(self, row: Row) -> None:
        place = (row["trace_id"], row["start"], row["end"])
        if row["action"] == "undo":
            if self._done:
                self._done.pop()
        elif row["action"] in ("label", "skip"):
            self._done.append((place, self._last.get(place)))
        self._last[place] = row
        self.rows.append(row)
