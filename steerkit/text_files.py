"""Text files of users: UTF-8, with or without a byte order mark, or an error that says where and what to do."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from steerkit.errors import SteerkitError

LONGEST = 16 * 2**20  # characters of a line


@contextmanager
def open_text(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    """A text file, open for reading. A byte order mark is left out.

    Raises:
        SteerkitError: it can't be read, or is not UTF-8 (with line and byte).
    """
    try:
        with path.open("rb") as file:
            head = file.read(4)
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in head:
            raise SteerkitError(f"{path}:1: not UTF-8 but UTF-16, it seems; {_convert(path, 'UTF-16')}")
        with path.open(encoding="utf-8-sig", newline=newline) as file:
            yield file
    except UnicodeDecodeError as error:
        raise SteerkitError(_not_utf8(path)) from error
    except OSError as error:
        raise SteerkitError(f"{path}: can't be read: {error.strerror or error}") from error


def _not_utf8(path: Path) -> str:
    """Line and byte at which a file stops being UTF-8."""
    number, bad = 1, 0
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST), b""), 1):  # noqa: B007
            try:
                line.decode()
            except UnicodeDecodeError as error:
                bad = error.start
                break
    byte = f"byte {bad + 1} of the line is 0x{line[bad]:02X}"
    return f"{path}:{number}: not UTF-8 ({byte}), perhaps Latin-1 or Windows-1252; {_convert(path, 'WINDOWS-1252')}"


def _convert(path: Path, encoding: str) -> str:
    return f"save it as UTF-8, e.g. `iconv -f {encoding} -t UTF-8 {path.name} > utf8-{path.name}`"
