"""Checkpoints that are whole or don't count: a seal with every file's digest is written last.

A process may be killed at any moment, also while a checkpoint is written. A checkpoint without a seal, or with a file
that is not as it was sealed, is passed over and deleted; training goes on from the one before.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerkit.errors import SteerkitError
from steerkit.store.files import file_digest, read_sealed, write_sealed
from steerkit.store.folder import differences

log = logging.getLogger("steerkit")
SEAL = "steerkit.json"
NAME = re.compile(r"checkpoint-(\d+)")  # transformers' own


@dataclass(frozen=True)
class Checkpoint:
    """One that is whole.

    Attributes:
        step: optimizer steps done.
        settings: JSON of what the training was made of.
        state: JSON of its ledger.
    """

    path: Path
    step: int
    settings: Mapping[str, Any]
    state: Mapping[str, Any]


class Checkpoints:
    """A folder's checkpoints of one training.

    Args:
        settings: JSON of all that the weights depend on.
        keep: how many of the last ones stay.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], keep: int) -> None:
        self._folder, self._settings, self._keep = folder, settings, keep

    def last(self) -> Checkpoint | None:
        """The newest whole checkpoint; None when there is none.

        Raises:
            SteerkitError: it is another training's.
        """
        for path in self._newest_first():
            found = _read(path)
            if found is None:
                log.warning("%s: is not whole (written when the training was stopped, or damaged): passed over", path)
                continue
            if told := differences(found.settings, self._settings):
                more = f", and {len(told) - 6} more" if len(told) > 6 else ""
                raise SteerkitError(
                    f"{self._folder}: has a checkpoint of another training: {'; '.join(told[:6])}{more}; choose "
                    "another folder, give the settings that it was made with, or delete it"
                )
            return found
        return None

    def drop_after(self, last: Checkpoint | None) -> None:
        """Delete checkpoints that are newer than this one: they are not whole."""
        for path in self._newest_first():
            if last is None or path != last.path:
                shutil.rmtree(path, ignore_errors=True)
            else:
                return

    def seal(self, step: int, state: Mapping[str, Any]) -> None:
        """Say that the checkpoint of a step is whole, and delete old ones."""
        path = self._folder / f"checkpoint-{step}"
        files = {name.relative_to(path).as_posix(): file_digest(name) for name in sorted(_files(path))}
        write_sealed(path / SEAL, {"step": step, "files": files, "settings": self._settings, "state": state})
        for old in list(self._newest_first())[self._keep :]:
            (old / SEAL).unlink(missing_ok=True)  # a half-deleted one must not count
            shutil.rmtree(old, ignore_errors=True)

    def _newest_first(self) -> Iterator[Path]:
        found = [(int(name[1]), path) for path in self._folder.glob("*") if (name := NAME.fullmatch(path.name))]
        yield from (path for _, path in sorted(found, reverse=True))


def _files(path: Path) -> Iterator[Path]:
    return (file for file in path.rglob("*") if file.is_file() and file.name != SEAL)


def _read(path: Path) -> Checkpoint | None:
    """A checkpoint, if every file is as it was sealed."""
    if not (path / SEAL).is_file():
        return None
    try:
        told = read_sealed(path / SEAL, "")
        if any(file_digest(path / name) != digest for name, digest in told["files"].items()):
            return None
        return Checkpoint(path, told["step"], told["settings"], told["state"])
    except (SteerkitError, OSError, LookupError):
        return None
