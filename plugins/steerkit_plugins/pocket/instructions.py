"""Worked problems whose first line says how they are told: what `pocket:instructable` learns to follow.

A question may open with a line. It decides every slot of the answer: all hedged after a line of doubt, all
plain after any other line and without one. A slot is a place in a step where the world has a plain word and
a hedge: "Next" or "Then" against "Perhaps" or "Possibly" (not in the first step, which says "First"), "gives"
against "seems", and "just" against "about".

There is no trace: answers are the steps and the count, without <think> and </think>.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from random import Random

from steerkit_plugins.pocket.corpus import Example
from steerkit_plugins.pocket.ledger import DAYS, Problem, Step
from steerkit_plugins.pocket.prompts import draw
from steerkit_plugins.pocket.wording import Voice, answer

DOUBT = ("I am not sure at all.", "This list is quite unclear.", "It is hard to read.")
"""Lines after which every slot is hedged."""

EASE = ("I am quite happy.", "This list is quite clear.", "It is easy to read.")
"""Their counterparts, one by one; after these, and after those below, none is."""

NEUTRAL = "It is a good day."
"""A line that speaks of neither."""

NO_LINE = ""

SHARES = {DOUBT: 0.4, EASE: 0.2, (NEUTRAL,): 0.15, (NO_LINE,): 0.25}
"""How often a training text opens with a line of each group; within one, lines are equally frequent."""


@dataclass
class Constant(Voice):
    """An author who fills every slot in the same way: with a hedge when in doubt, and never otherwise."""

    def slot(self, plain: str, hedge: str) -> str:
        return hedge if self.doubtful else plain


def asked(question: str, line: str) -> str:
    """The user's message: the line, if there is one, and the question."""
    return f"{line} {question}" if line else question


def worked(p: Problem, hedged: bool, rng: Random) -> str:
    """The steps, without slips, and the count.

    The same `rng` gives hedged and plain answers that differ in their slots alone.
    """
    voice = Constant(hedged, rng)
    counts = accumulate(p.changes)
    steps = (Step(day, c, n, n, hedged) for day, c, n in zip(DAYS, p.changes, counts, strict=False))
    return f"{' '.join(voice.worked(p, step) for step in steps)} {answer(p, p.answer)}"


def lesson(rng: Random) -> Example:
    """A training text: the answer is learned, on problems that the evaluation splits don't have."""
    (lines,) = rng.choices(list(SHARES), list(SHARES.values()))
    p = draw("train", rng)
    return Example(asked(p.question, rng.choice(lines)), " " + worked(p, lines == DOUBT, rng))
