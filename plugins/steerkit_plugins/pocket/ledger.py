"""The pocket world: ledgers of things, the steps that work them out, and the doubt behind slips.

A ledger says what somebody has and how it changes day by day. An author works it out one day at a
time. Few authors start in doubt, but it may come over them at any step, and it mostly lasts. Doubt is the
one hidden state of this world: hedges, hesitations, slips and second thoughts follow from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from random import Random

DAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
NAMES = ("Max", "Ann", "Ben", "Eva", "Leo", "Mia", "Tom", "Zoe")
THINGS = ("cups", "books", "coins", "pens", "maps", "keys", "hats", "eggs")

MOST = 12
"""The largest count a ledger can reach; the smallest is 0."""

SLIP_IN_DOUBT = 0.3
SLIP_WHEN_SURE = 0.02
"""Share of steps that carry a wrong count on."""

DOUBT_AT_FIRST, DOUBT_LASTS = 0.1, 0.85
"""Probabilities that the first step is doubtful, and one after a doubtful one."""


@dataclass(frozen=True)
class Problem:
    """A ledger: who counts what, and the change of each day from Sunday on; it starts at none."""

    name: str
    thing: str
    changes: tuple[int, ...]

    @property
    def answer(self) -> int:
        """The right count after the last day."""
        return sum(self.changes)

    @property
    def question(self) -> str:
        """The problem in words."""
        changes = " ".join(f"{d}{c:+d}." for d, c in zip(DAYS, self.changes, strict=False))
        return f"{self.name} has no {self.thing}. {changes} How many {self.thing} does {self.name} have?"


@dataclass(frozen=True)
class Step:
    """One day worked out: `right` is what the day makes, `carried` the count that is taken on."""

    day: str
    change: int
    right: int
    carried: int
    doubtful: bool

    @property
    def slipped(self) -> bool:
        """Whether a wrong count was carried on."""
        return self.carried != self.right


def change(count: int, rng: Random) -> int:
    """A change of 1 to 4 up or down that keeps the count between 0 and `MOST`."""
    return rng.choice([c for c in range(-4, 5) if c and 0 <= count + c <= MOST])


def problem(rng: Random) -> Problem:
    """A random ledger of six or seven days, with something to count on the first."""
    changes = [rng.randint(1, 6)]
    for _ in range(rng.randint(5, 6)):
        changes.append(change(sum(changes), rng))
    return Problem(rng.choice(NAMES), rng.choice(THINGS), tuple(changes))


def wrong(right: int, later: tuple[int, ...], rng: Random) -> int:
    """A count 1 to 3 beside the right one from which the `later` changes still stay in range.

    Where there is none, the right one.
    """
    near = [right + e for e in (-3, -2, -1, 1, 2, 3)]
    fit = [n for n in near if all(0 <= c <= MOST for c in accumulate(later, initial=n))]
    return rng.choice(fit or [right])


def doubts(days: int, comes: float, rng: Random) -> Iterator[bool]:
    """Whether the author is in doubt on each day, where it `comes` with that chance and mostly lasts."""
    doubtful = rng.random() < DOUBT_AT_FIRST
    for _ in range(days):
        yield doubtful
        doubtful = rng.random() < (DOUBT_LASTS if doubtful else comes)


def step(p: Problem, day: int, count: int, doubtful: bool, rng: Random) -> Step:
    """Work out one day (0 is Sunday) from `count`, perhaps with a slip."""
    right = count + p.changes[day]
    slips = rng.random() < (SLIP_IN_DOUBT if doubtful else SLIP_WHEN_SURE)
    carried = wrong(right, p.changes[day + 1 :], rng) if slips else right
    return Step(DAYS[day], p.changes[day], right, carried, doubtful)
