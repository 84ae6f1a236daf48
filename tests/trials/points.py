"""Where and how a run is hit: killed, interrupted, out of room. Each kind says how such a run must end."""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from disk import fill
from forked import Ended, run, words_for

LARGEST = 2**20  # bytes of a run's largest file, about
OPERATIONS = ("os.rename", "os.remove", "os.truncate", "os.mkdir", "os.rmdir")  # and opening to write
NO_ROOM = "make room"
STOPPED = "stopped; what is done is kept"


@dataclass(frozen=True)
class Point:
    """A random moment, and what happens then.

    Attributes:
        kind: one of KINDS.
        step: that is hit; the moment is a share of the processor time that it takes.
        size: bytes that files may have, free pages, or the number of the file operation.
    """

    kind: str
    step: str
    share: float
    size: int


KINDS = {
    "kill": "kill -9 at a random moment",
    "kill-operation": "kill -9 before a random opening, renaming or removing of a file",
    "kill-write": "killed within a write, which leaves half of it",
    "enospc": "the disk is full from a random moment on",
    "efbig": "files may not grow over a random size from a random moment on",
    "sigint": "Ctrl-C at a random moment",
}


def draw(kind: str, step: str, operations: int, random: random.Random) -> Point:
    """A point of a kind in a step; `operations` is how many file operations a run makes."""
    largest = {"enospc": 64, "kill-operation": operations}.get(kind, LARGEST)
    low = kind in ("efbig", "kill-write", "enospc")  # the small limits are those that are met soon
    size = int(largest ** random.random()) - (kind == "enospc") if low else random.randrange(largest)
    return Point(kind, step, random.random(), size)


def hit(point: Point, folder: Path, seconds: dict[str, float], *, figures: bool) -> Ended:
    """Run the command into a folder, with a point on its way."""
    moments: dict[str, Callable[[int], None]] = {
        "kill": lambda pid: os.kill(pid, signal.SIGKILL),
        "sigint": lambda pid: os.kill(pid, signal.SIGINT),
        "enospc": lambda pid: fill(folder.parent, point.size),
        "efbig": lambda pid: _limit(pid, point.size),
        "kill-write": lambda pid: _limit(pid, point.size),
    }
    prepare: dict[str, Callable[[], object]] = {
        "kill-write": lambda: signal.signal(signal.SIGXFSZ, signal.SIG_DFL),
        "kill-operation": lambda: before_each(folder, lambda number: number == point.size and die()),
    }
    at = (point.step, point.share * seconds.get(point.step, 0.0))
    return run(words_for(folder), at=at, hit=moments.get(point.kind), prepare=prepare.get(point.kind), figures=figures)


def wrong(point: Point, ended: Ended) -> str:
    """What is wrong with the way a run that was hit ended, if anything."""
    if "Traceback" in ended.errors or "Exception ignored" in ended.errors:
        return "a traceback"
    code, words = {
        "kill": (-signal.SIGKILL, ""),
        "kill-operation": (-signal.SIGKILL, ""),
        "kill-write": (-signal.SIGXFSZ, ""),
        "enospc": (2, NO_ROOM),
        "efbig": (2, NO_ROOM),
        "sigint": (130, STOPPED),
    }[point.kind]
    if ended.code != code:
        return f"exit status {ended.code}, not {code}"
    return "" if words in ended.errors else f"no {words!r} on stderr"


def count_operations(folder: Path) -> int:
    """File operations that an uninterrupted run makes."""
    log = folder.with_name("operations")
    done = run(
        words_for(folder),
        figures=False,
        prepare=lambda: before_each(folder, lambda number: log.write_text(str(number))),
    )
    if done.code:
        raise RuntimeError(done.errors)
    return int(log.read_text())


def _limit(pid: int, size: int) -> None:
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def die() -> bool:
    """Never returns."""
    os.kill(os.getpid(), signal.SIGKILL)
    return True


def before_each(folder: Path, each: Callable[[int], object]) -> None:
    """Call with 0, 1, 2, ... before each operation that changes what is in a folder."""
    number = 0

    def look(event: str, args: tuple[object, ...]) -> None:
        nonlocal number
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        if (writes or event in OPERATIONS) and str(args[0]).startswith(str(folder)):
            own, number = number, number + 1
            each(own)

    sys.addaudithook(look)
