"""How a cost is measured here: ways of doing a thing in turns, in one process, and the ratio of each round.

On a busy machine only such ratios mean anything: both sides of a round see the same neighbours. With one CPU
thread processor time is taken, which leaves neighbours out; with more, or on a GPU, the clock.
"""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from steerkit.models.devices import found_device, name_of, synchronize

if TYPE_CHECKING:
    import torch

from steerkit.errors import SteerkitError

Work = Callable[[], float | None]
"""Does a thing once; returns how many units of it were done (tokens, traces); None counts as one."""

Tick = Callable[[], None]
"""Called after each measurement, for a progress bar."""

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Question:
    """One ratio that is asked for.

    Attributes:
        name: of the result.
        work: name of the work that is judged.
        against: name of the work that it is measured with.
        goal: what the ratio should be.
        least: the ratio is a speed (how many times faster `work` is) and the goal the least that it should be;
            otherwise a cost (how many times as long it takes) and the most.
        note: what a reader must know of the comparison, e.g. that one side was scaled up from a part.
    """

    name: str
    work: str
    against: str
    goal: float
    least: bool = False
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Result:
    """A figure beside its goal.

    Attributes:
        ratio: median over rounds.
        low, high: ends of the median's interval at 95 %; the smallest and largest round where there are too few.
        least: whether the goal is the least (or the most) that the ratio should be.
        holds: whether the median keeps the goal.
        rounds: how often both sides were measured.
        note: what a reader must know of the comparison.
        machine: kind of processor and number of threads.
    """

    name: str
    ratio: float
    low: float
    high: float
    goal: float
    holds: bool
    least: bool = False
    rounds: int = 1
    note: str = ""
    machine: str = ""


def no_tick() -> None:
    """Shows nothing."""


def ratio(a: float, b: float, name: str) -> float:
    """a / b of two measured figures.

    Raises:
        SteerkitError: one of them is 0, negative, infinite or no number: nothing was measured.
    """
    if not all(math.isfinite(value) and value > 0 for value in (a, b)):
        raise SteerkitError(f"{name}: {a:g} / {b:g} is no ratio: one side measured nothing")
    return a / b


def result(question: Question, ratios: Sequence[float]) -> Result:
    """A question's answer from the ratios of the rounds.

    Raises:
        SteerkitError: there is none, or one that is 0, negative, infinite or no number.
    """
    if not ratios or not all(math.isfinite(value) and value > 0 for value in ratios):
        raise SteerkitError(f"{question.name}: no ratios of what was measured: {list(ratios)}")
    middle = median(ratios)
    low, high = median_interval(ratios)
    holds = middle >= question.goal if question.least else middle <= question.goal
    return Result(
        name=question.name,
        ratio=middle,
        low=low,
        high=high,
        goal=question.goal,
        holds=holds,
        least=question.least,
        rounds=len(ratios),
        note=question.note,
        machine=machine(),
    )


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Distribution-free interval of the median: the k-th smallest to the k-th largest of the values.

    k is the largest for which a binomial count stays inside with this probability; the smallest and the largest
    value where there is none (fewer than six values at 95 %).
    """
    order = sorted(values)
    n, outside, k = len(order), 0.0, 1
    for below in range(n // 2):
        outside += 2 * math.comb(n, below) / 2**n
        if outside > 1 - confidence:
            break
        k = below + 1
    return order[k - 1], order[n - k]


def ratios_of(seconds: Mapping[str, Sequence[float]], question: Question) -> list[float]:
    """Each round's ratio: a cost, or for goals that are the least a speed."""
    pairs = zip(seconds[question.work], seconds[question.against], strict=True)
    return [ratio(*((b, a) if question.least else (a, b)), question.name) for a, b in pairs]


def timed(work: Work) -> float:
    """Seconds that a unit of a work takes.

    Raises:
        SteerkitError: no unit was done.
    """
    import torch

    device = found_device()
    clock = time.process_time if torch.get_num_threads() == 1 and device.type == "cpu" else time.perf_counter
    synchronize()
    begin = clock()
    units = work()
    synchronize()
    seconds = clock() - begin
    if units == 0:
        raise SteerkitError("a work that is measured did nothing: no tokens, no traces; take larger sizes")
    return seconds / (units or 1.0)


def interleaved(
    works: Mapping[str, Work], rounds: int, *, warm: bool = True, tick: Tick = no_tick
) -> dict[str, list[float]]:
    """Seconds a unit of each work, `rounds` of each: in turns, every other round backwards.

    Args:
        warm: do each once unmeasured first.
        tick: called after each work; ``(rounds + warm) × works`` times in all.
    """
    order = list(works)
    if warm:
        for name in order:
            works[name]()
            tick()
    seconds: dict[str, list[float]] = {name: [] for name in order}
    for _ in range(rounds):
        for name in order:
            seconds[name].append(timed(works[name]))
            tick()
        order.reverse()
    return seconds


def compare(
    works: Mapping[str, Work],
    questions: Sequence[Question],
    rounds: int,
    *,
    warm: bool = True,
    tick: Tick = no_tick,
) -> list[Result]:
    """Answers to questions about works, measured in turns."""
    seconds = interleaved(works, rounds, warm=warm, tick=tick)
    return [result(question, ratios_of(seconds, question)) for question in questions]


def quickest(work: Callable[[int], Work], sizes: Sequence[int], rounds: int = 1) -> int:
    """Which size makes a unit of work cheapest, by a short trial of each."""
    works = {str(size): work(size) for size in sizes}
    works[str(min(sizes))]()  # warms up
    seconds = interleaved(works, rounds, warm=False)
    return int(min(seconds, key=lambda size: median(seconds[size])))


def settle(threads: int = 1) -> None:
    """Use this many CPU threads; glibc (where there is one) returns no memory to the system.

    Otherwise whichever side happens to get pages back pays for them, up to a third of a short pass.
    """
    import ctypes

    import torch

    torch.set_num_threads(threads)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if platform.system() == "Linux" else None
    if mallopt:
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        mallopt(-4, 0)  # M_MMAP_MAX


def machine(device: torch.device | None = None) -> str:
    """The GPU, or the kind of processor and how many threads torch uses.

    Args:
        device: what is told of; the one that is found by default.
    """
    import torch

    device = device or found_device()
    if device.type != "cpu":
        return name_of(device)
    threads = torch.get_num_threads()
    kind = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    return f"{kind}, {threads} thread{'s' if threads > 1 else ''}"


def write(results: Sequence[Result], path: Path, *, keep: bool = False) -> None:
    """Write a list of results as JSON; `keep` those of other names that stand in the file."""
    names = {r.name for r in results}
    old = json.loads(path.read_text()) if keep and path.is_file() else []
    rows = [*(row for row in old if row["name"] not in names), *(asdict(r) for r in results)]
    path.write_text(json.dumps(rows, indent=1) + "\n")


def read(path: Path) -> list[Result]:
    """The results in a file."""
    return [Result(**row) for row in json.loads(path.read_text())]
