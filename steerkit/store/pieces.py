"""The finished pieces of a step that is under way: a file each, whole or absent."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

NAME = "pieces"


class Pieces:
    """Where the results of a step's pieces are, for one key: what was made for other inputs has another folder."""

    def __init__(self, folder: Path, step: str, key: str) -> None:
        self._all, self._step = folder / NAME, step
        self.path = self._all / f"{step}.{key}"

    def file(self, number: int) -> Path:
        """The file of a piece's result."""
        return self.path / f"{number:06}"

    def done(self) -> set[int]:
        """Numbers of the pieces that are there."""
        files = self.path.glob("*") if self.path.is_dir() else ()
        return {int(file.name) for file in files if re.fullmatch("[0-9]{6,}", file.name)}

    def remove(self) -> None:
        """Delete the step's pieces, for whatever key they were made."""
        for path in self._others():
            shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError):
            self._all.rmdir()

    def _others(self) -> Iterator[Path]:
        for path in self._all.glob(f"{self._step}.*"):
            if path.name.rpartition(".")[0] == self._step:
                yield path
