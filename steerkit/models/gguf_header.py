"""A GGUF file's header, walked before its reader is given it: that one trusts every count and size in it.

The layout is llama.cpp's (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import BinaryIO

VERSIONS = (2, 3)
FIELDS, TENSORS, DIMENSIONS, NUMBERS = 4096, 4096, 4, 2**24
"""Most that a control vector may have: key-value pairs, tensors, dimensions of one, numbers in one."""
LONGEST = 2**20  # bytes of a key or a name, or values of an array
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9


def architecture_of(path: Path, wanted: str) -> str | None:
    """What the file says it is; the rest of the header is checked where that is `wanted`.

    Raises:
        OSError: it can't be read.
        ValueError: it is no GGUF file, cut off, or has counts that no control vector has.
    """
    with path.open("rb") as file:
        header = _Header(file, path.stat().st_size)
        header.begin()
        tensors, fields = header.number("Q", TENSORS), header.number("Q", FIELDS)
        found = None
        for _ in range(fields):
            key, kind = header.text(), header.number("I")
            if key == b"general.architecture" and kind == _STRING:
                found = header.text().decode("utf-8", "replace")
                if found != wanted:
                    return found
            else:
                header.skip_value(kind)
        for _ in range(tensors if found == wanted else 0):
            header.tensor()
        return found


class _Header:
    """Reads forward through a file, never past its end."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size, self.order = file, size, "<"

    def begin(self) -> None:
        """The magic and the version, which shows the byte order."""
        if self.take(4) != b"GGUF":
            raise ValueError("no GGUF magic")
        version = self.take(4)
        self.order = ">" if version[:2] == b"\0\0" else "<"
        if struct.unpack(f"{self.order}I", version)[0] not in VERSIONS:
            raise ValueError("a version that is not known")

    def take(self, count: int) -> bytes:
        if count > self.size - self.file.tell():
            raise ValueError("it ends too early")
        return self.file.read(count)

    def skip(self, count: int) -> None:
        if count > self.size - self.file.tell():
            raise ValueError("it ends too early")
        self.file.seek(count, 1)

    def number(self, kind: str, most: int | None = None) -> int:
        found: int = struct.unpack(self.order + kind, self.take(struct.calcsize(self.order + kind)))[0]
        if most is not None and found > most:
            raise ValueError(f"a count of {found:,}, where a control vector has at most {most:,}")
        return found

    def text(self) -> bytes:
        return self.take(self.number("Q", LONGEST))

    def skip_value(self, kind: int) -> None:
        """Pass over a value; arrays of arrays are refused, as no writer makes them."""
        if kind in _SIZES:
            self.skip(_SIZES[kind])
        elif kind == _STRING:
            self.text()
        elif kind == _ARRAY:
            inner, count = self.number("I"), self.number("Q", LONGEST)
            if inner in _SIZES:
                self.skip(_SIZES[inner] * count)
            elif inner == _STRING:
                for _ in range(count):
                    self.text()
            else:
                raise ValueError(f"an array of the type {inner}")
        else:
            raise ValueError(f"a value of the type {kind}")

    def tensor(self) -> None:
        """Pass over a tensor's entry: name, dimensions, type, offset."""
        self.text()
        shape = [self.number("Q") for _ in range(self.number("I", DIMENSIONS))]
        if math.prod(shape) > NUMBERS:
            raise ValueError(f"a tensor of the shape {shape}")
        self.number("I")
        if self.number("Q") > self.size:
            raise ValueError("it ends before its tensors")
