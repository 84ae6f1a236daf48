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
            if b"\0" in file.read(4):  # UTF-16 of an ASCII character, whose bytes may pass for UTF-8
                raise SteerkitError(not_utf8(path))
        with path.open(encoding="utf-8-sig", newline=newline) as file:
            yield file
    except UnicodeDecodeError as error:
        raise SteerkitError(not_utf8(path)) from error
    except OSError as error:
        raise SteerkitError(f"{path}: can't be read: {error.strerror or error}") from error


def lines_of(file: TextIO, path: Path) -> Iterator[str]:
    """Lines of an open file. Raises: SteerkitError for one that no memory should be given to."""
    while line := file.readline(LONGEST + 1):
        if len(line) > LONGEST:
            raise SteerkitError(f"{path}: has a line of more than {LONGEST // 2**20} MiB, which no row of text takes")
        yield line


def not_utf8(path: Path) -> str:
    """Where a file stops being UTF-8, what it may be instead, and how to convert it."""
    number, line, bad = 0, b"", 0
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST), b""), 1):  # noqa: B007
            try:
                line.decode()
            except UnicodeDecodeError as error:
                bad = error.start
                break
            if b"\0" in line[:4]:
                break
    if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in line[:4]:
        return f"{path}:{number}: not UTF-8 but UTF-16, it seems; {_convert(path, 'UTF-16')}"
    byte = f"byte {bad + 1} of the line is 0x{line[bad]:02X}"
    return f"{path}:{number}: not UTF-8 ({byte}), perhaps Latin-1 or Windows-1252; {_convert(path, 'WINDOWS-1252')}"


def _convert(path: Path, encoding: str) -> str:
    return f"save it as UTF-8, e.g. `iconv -f {encoding} -t UTF-8 {path.name} > utf8-{path.name}`"
