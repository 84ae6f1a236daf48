"""Files that are whole or absent, and jsonl that a kill can only cut at its last batch."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from steerkit.errors import SteerkitError
from steerkit.store.strict_json import loads

if TYPE_CHECKING:
    from torch import Tensor


FULL = 2**20
"""Bytes; a disk with fewer of them free is full."""


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, renamed over it when the block ends without an exception.

    Raises:
        SteerkitError: the disk is full or the folder can't be written; what was there before stays.
    """
    folder = path.with_name(f".{path.name}.tmp")  # safetensors has a temporary file of its own, which a kill leaves
    temporary = folder / path.name
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise disk_error(path, error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def disk_error(path: Path, error: Exception) -> SteerkitError:
    """A write that failed, in words. Not every writer's error says that the disk is full."""
    told = getattr(error, "strerror", None) or str(error)
    if not isinstance(error, OSError) and path.exists() and shutil.disk_usage(path).free < FULL:
        told = os.strerror(errno.ENOSPC)
    return SteerkitError(
        f"{path}: can't be written: {told}; what was done before is kept: "
        "make room (or choose another folder with --out) and give the same command again"
    )


def write_json(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object with its own digest, whole or not at all."""
    write_json(path, {**value, "digest": digest(json.loads(json.dumps(value)))})


def read_sealed(path: Path, cure: str) -> dict[str, Any]:
    """What `write_sealed` wrote.

    Args:
        cure: what the user can do where it is damaged.

    Raises:
        SteerkitError: it is not as it was written.
    """
    try:
        value = dict(loads(path.read_text(encoding="utf-8")))
        if value.pop("digest", None) != digest(value):
            raise ValueError("it is not as it was written")
    except (ValueError, TypeError) as error:
        raise SteerkitError(f"{path}: is damaged ({error}); {cure}") from error
    return value


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, whole or not at all; the same values give the same bytes.

    safetensors itself writes the metadata's keys in an order that changes from call to call.
    """
    from safetensors.torch import save_file

    with atomic(path) as temporary:
        save_file(dict(tensors), temporary, dict(metadata))
        with temporary.open("r+b") as file:
            length = int.from_bytes(file.read(8), "little")
            head = json.loads(file.read(length))
            head["__metadata__"] = dict(sorted(head["__metadata__"].items()))
            file.seek(8)
            file.write(json.dumps(head, ensure_ascii=False, separators=(",", ":")).encode().ljust(length))


def append_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Append rows in one write and flush them to the disk; a torn last line, left by a kill, is cut off first."""
    text = "".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows)
    block = memoryview(text.encode())
    try:
        size = _whole_size(path)
        with path.open("ab", buffering=0) as file:  # a buffer would write its rest when closed, after the cut
            try:
                if size < file.seek(0, os.SEEK_END):
                    file.truncate(size)
                while block:
                    block = block[file.write(block) :]
                os.fsync(file.fileno())
            except OSError:
                os.truncate(path, size)  # a full disk leaves no half line behind
                raise
    except OSError as error:
        raise disk_error(path, error) from error


def _whole_size(path: Path) -> int:
    """Bytes of a file's whole lines."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        return size if file.read() in (b"", b"\n") else path.read_bytes().rfind(b"\n") + 1


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as jsonl, whole or not at all."""
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows)


def read_whole_lines(path: Path) -> list[dict[str, Any]]:
    """Rows of a jsonl file that a killed process may have left torn: the last, cut line is removed."""
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        os.truncate(path, len(whole))
    rows = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise SteerkitError(
                f"{path}:{number}: damaged line ({error}); delete it (what it held is done again) and run again"
            ) from error
    return rows


def digest(value: Any) -> str:
    """16 hex digits of a JSON value's SHA-256."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def input_digest(path: str | None) -> str | None:
    """Digest of a file that the user named, if any. Raises: SteerkitError when it isn't there."""
    if path is None:
        return None
    if not Path(path).is_file():
        raise SteerkitError(f"{path}: no such file; the path is relative to {Path.cwd()}")
    return file_digest(Path(path))


def file_digest(path: Path) -> str:
    """16 hex digits of a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def linked(file: Path, to: Path) -> None:
    """A second name for a file, or a copy where the disk knows no such thing."""
    try:
        os.link(file, to)
    except OSError:
        with atomic(to) as temporary:
            shutil.copyfile(file, temporary)
