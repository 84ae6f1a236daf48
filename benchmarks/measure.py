"""How a cost is measured here: two ways of doing a thing in turns, in one process, and the ratio of each round.

On a busy machine only such ratios mean anything: both sides of a round see the same neighbours. Everything
runs on one CPU thread, and the process keeps the memory that it once had: otherwise whichever side happens to
get pages back from the system pays for them, up to a third of a short pass.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

RESULTS = Path(__file__).parent / "results.json"


@dataclass(frozen=True)
class Result:
    """A figure beside its goal.

    Attributes:
        ratio: median over rounds; `low` and `high` are the smallest and the largest round's.
        goal: at most this.
    """

    name: str
    ratio: float
    low: float
    high: float
    goal: float
    holds: bool


def timed(work: Callable[[], object]) -> float:
    """Seconds of processor time that one call takes: this process has one thread, and neighbours don't count."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def settle() -> None:
    """One CPU thread; glibc (where there is one) returns no memory to the system."""
    import ctypes

    import torch

    torch.set_num_threads(1)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        mallopt(-4, 0)  # M_MMAP_MAX


def compare(
    works: dict[str, Callable[[], object]], questions: Sequence[tuple[str, str, str, float]], rounds: int
) -> list[Result]:
    """Costs of works as multiples of each other's; prints them.

    Args:
        works: name → what is done. All are done once unmeasured, then in turns, every other round backwards.
        questions: (name of the result, work, work that it is divided by, goal).
    """
    order = list(works)
    for name in order:
        works[name]()
    seconds: dict[str, list[float]] = {name: [] for name in order}
    for _ in range(rounds):
        for name in order:
            seconds[name].append(timed(works[name]))
        order.reverse()
    print("    seconds: " + ", ".join(f"{name} {median(s):.2f}" for name, s in seconds.items()))
    found = []
    for name, work, plain, goal in questions:
        ratios = [a / b for a, b in zip(seconds[work], seconds[plain], strict=True)]
        middle = median(ratios)
        found.append(Result(name, middle, min(ratios), max(ratios), goal, middle <= goal))
        print(f"    {name}: {middle:.3f} ({min(ratios):.3f} to {max(ratios):.3f})", flush=True)
    return found


def show(results: Sequence[Result]) -> None:
    """Print a table."""
    wide = max(len(r.name) for r in results)
    print(f"{'':{wide}}   ratio     low    high    goal")
    for r in results:
        held = "holds" if r.holds else "DOES NOT HOLD"
        print(f"{r.name:{wide}}  {_figure(r.ratio)} {_figure(r.low)} {_figure(r.high)} {_figure(r.goal)}  {held}")


def _figure(value: float) -> str:
    return f"{value:7.3f}" if value == 0 or abs(value) >= 0.001 else f"{value:7.0e}"


def write(results: Sequence[Result], *, keep: bool = False, path: Path = RESULTS) -> None:
    """Write `results.json`; `keep` those of other names that stand there."""
    names = {r.name for r in results}
    old = json.loads(path.read_text()) if keep and path.is_file() else []
    rows = [*(row for row in old if row["name"] not in names), *(asdict(r) for r in results)]
    path.write_text(json.dumps(rows, indent=1) + "\n")
