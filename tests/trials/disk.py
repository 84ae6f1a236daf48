"""A small disk that can be filled to the last page and given room again."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SIZE = 32 * 2**20  # bytes; a run takes under 4 MB
PAGE = 4096


@contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """A tmpfs mounted on a new folder; None where that can't be done (it takes root on Linux)."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, pages: int) -> None:
    """Leave so many free pages, or fewer where others write meanwhile."""
    with (disk / "filler").open("wb") as file:
        while (free := (there := os.statvfs(disk)).f_bavail - pages) > 0:
            try:
                os.posix_fallocate(file.fileno(), 0, free * there.f_frsize)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
            else:
                return


def give_room(disk: Path) -> None:
    (disk / "filler").unlink(missing_ok=True)
