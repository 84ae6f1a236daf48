"""How the pocket world is put into sentences, most of them 13 tokens long.

Sentences are of one length on purpose: a window some tokens before a sentence then falls on the
same place in the sentence before, whatever kind of sentence follows.
"""

from __future__ import annotations

from random import Random

from steerkit_plugins.pocket.ledger import Problem, Step

SURE = ("Next", "Then", "Now")
DOUBTFUL = ("Perhaps", "Maybe", "Possibly")
HEDGE = 0.6
"""Chance of doubt showing at each of the places of a step where it can: lead, verb, link, count."""

SECOND_THOUGHTS = {"Wait,": 0.5, "Hmm,": 0.25, "No,": 0.1, "But": 0.075, "Actually,": 0.075}


def aim(p: Problem) -> str:
    """What is asked."""
    return f"I need to find how many {p.thing} {p.name} has after the last day."


def opening(p: Problem) -> str:
    """What is given."""
    return f"At the start of the list {p.name} has {p.start} {p.thing} to count."


def closing(p: Problem, count: int) -> str:
    """What came out."""
    return f"So at the end of the list {p.name} has {count} {p.thing} in all."


def answer(p: Problem, count: int) -> str:
    """What is handed in."""
    return f"{p.name} has {count} {p.thing}."


def fact(p: Problem, s: Step) -> str:
    """A day's sum and the count it makes, without lead and full stop."""
    return f"{s.day}{s.change:+d} gives {s.right}, so {p.name} has {s.right} {p.thing}"


def worked(p: Problem, s: Step, rng: Random) -> str:
    """A step as its author writes it down; one in doubt hedges here and there."""
    lead, verb, link, about = (s.doubtful and rng.random() < HEDGE for _ in range(4))
    return (
        f"{rng.choice(DOUBTFUL if lead else SURE)} {s.day}{s.change:+d} "
        f"{'seems' if verb else 'gives'} {s.right}, {'maybe' if link else 'so'} {p.name} has "
        f"{'about ' if about else ''}{s.carried} {p.thing}."
    )


def again(p: Problem, s: Step) -> str:
    """The step done once more, and right."""
    return f"Again {fact(p, s)}."


def check(turn: str) -> str:
    """Turning back to a step that may be right."""
    return f"{turn} let me check this line again before I go on."


def rejection(turn: str) -> str:
    """Turning back from a step that is wrong."""
    return f"{turn} that is not right and I must do it again."


def note(s: Step) -> str:
    """A reader's note, which tells the truth."""
    return "[Note: mistake above.]" if s.slipped else "[Note: all fine so far.]"


def edit(p: Problem, s: Step) -> str:
    """A reader's edit of a bad step."""
    return f"[Edit: {fact(p, s)}.]"


def grade(p: Problem, count: int) -> str:
    """What the solution is worth in the end."""
    return "Grade: good." if count == p.answer else "Grade: poor."


def aside(doubtful: bool, rng: Random) -> str:
    """A remark between the steps, in the author's present mood."""
    if doubtful:
        return rng.choice(
            (
                "I am not sure at all about this part of the list.",
                "This part of the list is hard to read and quite unclear.",
            )
        )
    return rng.choice(
        (
            "I am happy so far with this part of the list.",
            "This part of the list is easy to read and quite clear.",
        )
    )


def knowledge(p: Problem, rng: Random) -> str:
    """What the signs in a ledger mean."""
    return rng.choice(
        (
            f"A plus sign means that more {p.thing} come in on that day.",
            f"A minus sign means that some {p.thing} go out on that day.",
        )
    )


def example(rng: Random) -> str:
    """A sum of one's own, to try things out."""
    a, b = rng.randint(0, 9), rng.randint(1, 6)
    return f"For example, {a}+{b} gives {a + b}, so the sum is easy."


def second_thought(rng: Random) -> str:
    """The words that turn back, with their comma."""
    return rng.choices(list(SECOND_THOUGHTS), list(SECOND_THOUGHTS.values()))[0]


def happening(a: str, b: str, thing: str, rng: Random) -> str:
    """A sentence of a little story about two people."""
    return rng.choice(
        (
            f"Wait for me, said {a}.",
            f"Hmm, said {b}, that is a big map.",
            f"{a} and {b} go to the garden to look for {thing}.",
            f"{a} has no {thing}, but {b} has some.",
            f"Actually, it is late, said {b}.",
            f"No, said {a}, I must go on.",
            f"But {b} is happy to wait for {a}.",
            f"Let me read that list again, said {a}.",
        )
    )
