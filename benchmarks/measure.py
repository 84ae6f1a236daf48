"""How a cost is measured here: two ways of doing a thing in turns, in one process, and the ratio of each round.

On a busy machine only such ratios mean anything: both sides of a round see the same neighbours. Everything
runs on one CPU thread.
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


def compare(
    plain: Callable[[], object], others: dict[str, tuple[Callable[[], object], float]], rounds: int
) -> list[Result]:
    """Cost of each of `others` (name → work, goal) as a multiple of `plain`'s, after one unmeasured call of each.

    `plain` runs before and after the others in every round, which are divided by the mean of the two.
    """
    plain()
    for work, _ in others.values():
        work()
    ratios: dict[str, list[float]] = {name: [] for name in others}
    seconds: list[float] = []
    for number in range(rounds):
        order = list(others.items())
        before = timed(plain)
        own = {name: timed(work) for name, (work, _) in (order if number % 2 else order[::-1])}
        after = timed(plain)
        seconds += [before, after]
        for name, value in own.items():
            ratios[name].append(value / ((before + after) / 2))
    print(f"    one plain pass: {median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})", flush=True)
    return [of_rounds(name, ratios[name], goal) for name, (_, goal) in others.items()]


def of_rounds(name: str, ratios: Sequence[float], goal: float) -> Result:
    """A Result of the rounds' ratios."""
    middle = median(ratios)
    return Result(name, middle, min(ratios), max(ratios), goal, middle <= goal)


def show(results: Sequence[Result]) -> None:
    """Print a table."""
    wide = max(len(r.name) for r in results)
    print(f"{'':{wide}}   ratio     low    high    goal")
    for r in results:
        held = "holds" if r.holds else "DOES NOT HOLD"
        print(f"{r.name:{wide}}  {_figure(r.ratio)} {_figure(r.low)} {_figure(r.high)} {_figure(r.goal)}  {held}")


def _figure(value: float) -> str:
    return f"{value:7.3f}" if value == 0 or abs(value) >= 0.001 else f"{value:7.0e}"


def write(results: Sequence[Result], path: Path = RESULTS) -> None:
    """Write `results.json`; results of other names that stand there are kept."""
    old = json.loads(path.read_text()) if path.is_file() else []
    new = [asdict(r) for r in results]
    names = {r.name for r in results}
    path.write_text(json.dumps([*(row for row in old if row["name"] not in names), *new], indent=1) + "\n")
