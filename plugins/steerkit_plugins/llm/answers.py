"""Answers kept on disk by what was asked: a crash repeats no paid call, and a run replays offline."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import TypeAdapter

from steerkit.errors import SteerkitError
from steerkit.store.files import append_jsonl, disk_error, read_whole_lines
from steerkit_plugins.llm.completion import Answer

FILE = "answers.jsonl"


ANSWER = TypeAdapter(Answer)


def key_of(host: str, request: Mapping[str, Any]) -> str:
    """64 hex digits: SHA-256 of the server and all that it is asked (model, messages, parameters)."""
    text = json.dumps([host, request], sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def default_folder(name: str) -> Path:
    """Where answers are kept outside a run."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "steerkit" / name


class Answers:
    """``answers.jsonl`` of a folder: one line an answer, with the request, written the moment it arrives."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._rows: dict[str, tuple[str, Answer]] = {}
        self._size = -1  # of the file when it was last read or written

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder, its answers read: two processes that ask the same at once would pay twice.

        Raises:
            SteerkitError: another process holds it, or it can't be written.
        """
        lock = FileLock(self.folder / ".lock", timeout=0)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout as error:
            raise SteerkitError(
                f"{self.folder}: another process is asking with these answers; wait for it, or name another cache"
            ) from error
        except OSError as error:
            raise disk_error(self.folder, error) from error
        try:
            self._load()
            yield
        finally:
            lock.release()

    def read(self) -> None:
        """Take in what other processes have added."""
        if (self.folder / FILE).is_file():
            with self.held():
                pass

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: str) -> Answer | None:
        """The answer to a request, if it was given."""
        found = self._rows.get(key)
        return found[1] if found else None

    def of_model(self, model: str) -> list[Answer]:
        """All answers that this model was asked for."""
        return [answer for asked, answer in self._rows.values() if asked == model]

    def put(self, key: str, model: str, request: Mapping[str, Any] | None, answer: Answer, secret: str) -> None:
        """Keep an answer, with the secret taken out wherever it stands."""
        row: dict[str, Any] = {"key": key, "model": model, "request": request, "answer": asdict(answer)}
        row = _without(row, secret) if secret else row
        append_jsonl(self.folder / FILE, [row])
        self._rows[key] = model, Answer(**row["answer"])
        self._size = (self.folder / FILE).stat().st_size

    def _load(self) -> None:
        path = self.folder / FILE
        if not path.is_file() or path.stat().st_size == self._size:
            return
        try:
            rows = read_whole_lines(path)
            self._rows = {row["key"]: (row["model"], ANSWER.validate_python(row["answer"])) for row in rows}
        except (KeyError, TypeError, ValueError) as error:
            raise SteerkitError(f"{path}: is no file of answers ({error}); name another cache") from error
        self._size = path.stat().st_size


def _without(value: Any, secret: str) -> Any:
    """A JSON value with a secret replaced in all its texts."""
    if isinstance(value, str):
        return value.replace(secret, "[key]")
    if isinstance(value, dict):
        return {name: _without(item, secret) for name, item in value.items()}
    return [_without(item, secret) for item in value] if isinstance(value, list) else value
