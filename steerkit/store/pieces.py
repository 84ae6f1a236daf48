"""The finished pieces of a step that is under way: a file each, named by its number and the digest of its contents."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from steerkit.store.files import file_digest

NAME = "pieces"


class Pieces:
    """Where the results of a step's pieces are, for one key: what was made for other inputs has another folder."""

    def __init__(self, folder: Path, step: str, key: str) -> None:
        self._all, self._step = folder / NAME, step
        self.path = self._all / f"{step}.{key}"

    def keep(self, number: int, write: Callable[[Path], None]) -> Path:
        """Write a piece's result with `write`, which takes a path; its file."""
        file = self.path / f"{number:06}"
        write(file)
        return file.rename(self.path / f"{file.name}.{file_digest(file)}")

    def done(self) -> dict[int, Path]:
        """Number → file of the pieces that are there as they were written; damaged ones are deleted."""
        found = {}
        for file in self.path.glob("*") if self.path.is_dir() else ():
            if name := re.fullmatch(r"([0-9]{6,})\.([0-9a-f]{16})", file.name):
                if file_digest(file) == name[2]:
                    found[int(name[1])] = file
                else:
                    file.unlink()
        return found

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
