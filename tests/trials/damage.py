"""Folders that were damaged, moved, or are in use by somebody else: each must be told in words, and be healed."""

from __future__ import annotations

import json
import os
import platform
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from forked import Ended, run, words_for
from points import before_each, die
from records import Record
from same import differences

Failures = list[str]
IN_PIECES = ("traces", "statistics.base", "generations.choose", "generations.test", "likelihoods.test")


def flips(whole: Path, folder: Path, chance: random.Random, few: bool, failures: Failures) -> list[Record]:
    """One bit of every sealed file of a finished run: the next run names it, and heals it when it is deleted."""
    names = ["state.json", *sealed(whole)]
    found = []
    for name in chance.sample(names, 4) if few else names:
        began, lost = time.monotonic(), len(failures)
        own = _copy(whole, folder / "flipped")
        data = bytearray((own / name).read_bytes())
        place = chance.randrange(len(data))
        data[place] ^= 1 << chance.randrange(8)
        (own / name).write_bytes(data)
        _named_and_healed(whole, own, name, f"bit in byte {place} of {name}", failures)
        found.append(Record(f"a flipped bit: {name}", 1, len(failures) - lost, time.monotonic() - began))
    return found


def torn(whole: Path, folder: Path, chance: random.Random, few: bool, failures: Failures) -> list[Record]:
    """The last line of every jsonl: cut in a finished run; and a piece of a run that was killed."""
    found = []
    names = [name for name in sealed(whole) if name.endswith(".jsonl")]
    for name in chance.sample(names, 1) if few else names:
        began, lost = time.monotonic(), len(failures)
        own = _copy(whole, folder / "torn")
        _tear(own / name, chance)
        _named_and_healed(whole, own, name, f"torn {name}", failures)
        found.append(Record(f"a torn last line, finished run: {name}", 1, len(failures) - lost, _since(began)))
    for step in IN_PIECES[:: 3 if few else 1]:
        began, lost = time.monotonic(), len(failures)
        own = folder / "torn"
        path = _begun(own, f"pieces/{step}.*/[0-9]*.*")
        for log in (path, own / "log.jsonl"):
            _tear(log, chance)
        _resumed(whole, own, f"torn {path.name} of a killed run", failures)
        found.append(Record(f"a torn last line, killed run: {step}", 1, len(failures) - lost, _since(began)))
    return found


def moves(whole: Path, folder: Path, chance: random.Random, few: bool, failures: Failures) -> list[Record]:
    """A run that was killed goes on in another place, moved there or copied; no file holds the old one's path."""
    found = []
    steps = ("statistics.reasoning", "generations.choose", "generations.test", "likelihoods.test")
    for how, step in [("moved", steps[0])] if few else [(h, s) for h in ("moved", "copied") for s in steps]:
        began, lost = time.monotonic(), len(failures)
        before, after = folder / "before-it-was-moved", folder / "elsewhere" / "run"
        run(words_for(before), at=(step, 0.0), hit=_kill, figures=False)
        after.parent.mkdir(exist_ok=True)
        if how == "moved":
            before.rename(after)
        else:
            shutil.copytree(before, after)
        _resumed(whole, after, f"{how} in {step}", failures, keep=True)
        holds = [path for path in after.rglob("*") if path.is_file() and str(before).encode() in path.read_bytes()]
        for path in holds:
            failures.append(f"{path} holds the old path")
        for place in (before, after):
            shutil.rmtree(place, ignore_errors=True)
        found.append(Record(f"a folder {how} after a kill: {step}", 1, len(failures) - lost, _since(began)))
    return found


def holders(whole: Path, folder: Path, chance: random.Random, few: bool, failures: Failures) -> list[Record]:
    """A second process is told who holds the folder; the first one goes on."""
    found = []
    for step in ("generations.test",) if few else ("traces", "statistics.base", "generations.test", "results"):
        began, lost = time.monotonic(), len(failures)
        own, seen = folder / "held", list[tuple[int, Ended]]()

        def second(pid: int, own: Path = own, seen: list[tuple[int, Ended]] = seen) -> None:
            os.kill(pid, signal.SIGSTOP)
            seen.append((pid, run(words_for(own))))
            os.kill(pid, signal.SIGCONT)

        first = run(words_for(own), at=(step, 0.0), hit=second, figures=False)
        for pid, ended in seen:
            wanted = (f"process {pid} on {platform.node()} since ", "steerkit recipe run backtracking", "--out")
            if ended.code != 2 or not all(words in ended.errors for words in wanted) or "Traceback" in ended.errors:
                failures.append(f"a second process during {step} got {ended.code}: {ended.errors}")
        if first.code or not seen or differences(whole, own):
            failures.append(f"held in {step}: {first.code} {first.errors} {differences(whole, own)}")
        shutil.rmtree(own)
        found.append(Record(f"a second process in the folder: {step}", 1, len(failures) - lost, _since(began)))
    return found


Damage = Callable[[Path, Path, random.Random, bool, Failures], list[Record]]
DAMAGES: dict[str, Damage] = {"flip": flips, "torn": torn, "move": moves, "second": holders}


def sealed(folder: Path) -> list[str]:
    """Files that may not change once their step is done."""
    steps = json.loads((folder / "state.json").read_text())["steps"]
    return sorted({name for record in steps.values() for name, seal in record["files"].items() if seal})


def _named_and_healed(whole: Path, own: Path, name: str, what: str, failures: Failures) -> None:
    ended = run(words_for(own), figures=False)
    if ended.code != 2 or str(own / name) not in ended.errors or "Traceback" in ended.errors:
        failures.append(f"{what}: exit status {ended.code}: {ended.errors}")
    (own / name).unlink()
    _resumed(whole, own, f"{what}, deleted", failures)


def _resumed(whole: Path, own: Path, what: str, failures: Failures, *, keep: bool = False) -> None:
    ended = run(words_for(own), figures=False)
    found = differences(whole, own, once=False) if not ended.code else ended.errors
    if found:
        failures.append(f"{what}: {found}")
    if not keep:
        shutil.rmtree(own)


def _begun(own: Path, pattern: str) -> Path:
    """A run that was killed at the first file operation after a step had a piece; that piece."""

    def there() -> list[Path]:
        return [path for path in own.glob(pattern) if path.stat().st_size]

    run(words_for(own), prepare=lambda: before_each(own, lambda number: there() and die()), figures=False)
    (path,) = there()
    return path


def _tear(path: Path, chance: random.Random) -> None:
    """Cut a file within its last line."""
    data = path.read_bytes()
    begin = data[:-1].rfind(b"\n") + 1
    os.truncate(path, chance.randrange(begin + 1, len(data)))


def _copy(whole: Path, to: Path) -> Path:
    shutil.copytree(whole, to)
    return to


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def _since(began: float) -> float:
    return time.monotonic() - began
