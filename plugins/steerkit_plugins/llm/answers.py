"""Answers kept on disk by what was asked: a crash repeats no paid call, and a run replays offline."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import TypeAdapter

from steerkit.errors import SteerkitError
from steerkit.files import append_jsonl, disk_error, read_whole_lines

FILE = "answers.jsonl"


@dataclass(frozen=True)
class Answer:
    """What a model said, and what its server said of it.

    Attributes:
        finish: why it ended: `stop`, `length`, `content_filter`, ...
        model: the dated snapshot that answered.
        system_fingerprint: of the server's configuration, where it tells.
        input_tokens, output_tokens: as charged; None when the server doesn't say.
    """

    content: str
    refusal: str
    finish: str
    model: str
    system_fingerprint: str
    input_tokens: int | None
    output_tokens: int | None


ANSWER = TypeAdapter(Answer)


def read_answer(body: str) -> Answer:
    """The answer in the body of a chat completion.

    Raises:
        ValueError: it is none, in words.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError("the body is no JSON") from error
    try:
        choice = value["choices"][0]
        message, usage = choice["message"], value.get("usage") or {}
        return Answer(
            content=writable(str(message.get("content") or "")),
            refusal=writable(str(message.get("refusal") or "")),
            finish=str(choice.get("finish_reason") or ""),
            model=str(value.get("model") or ""),
            system_fingerprint=str(value.get("system_fingerprint") or ""),
            input_tokens=_count(usage.get("prompt_tokens")),
            output_tokens=_count(usage.get("completion_tokens")),
        )
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError("the body is JSON, but no chat completion") from error


def writable(text: str) -> str:
    """A text as UTF-8 can have it: half a surrogate pair (an answer cut within an emoji) becomes a question mark."""
    return text.encode("utf-8", "replace").decode()


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


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
