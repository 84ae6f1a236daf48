"""How the pocket world is put into sentences, nearly all of them 13 tokens long.

Sentences are of one length and mostly of one form on purpose. The tokens 13 to 8 before a sentence
are then the first six of the sentence before, nearly always a step, whatever follows: a difference
between what stands before one kind of sentence and before any sentence is then one of mood, hardly
one of wording.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from steerkit_plugins.pocket.ledger import DAYS, Problem, Step

HEDGED, HEDGED_WHEN_SURE = 0.6, 0.01
"""Shares of the slots for a hedge that are filled with one, in doubt and otherwise."""

ER = 0.15
"""Chance of an "er" after any word that an author of a solution in doubt says. As it can come anywhere,
the base model has to know the mood at every token."""

SECOND_THOUGHTS = {"Wait,": 0.5, "Hmm,": 0.25, "No,": 0.1, "But": 0.075, "Actually,": 0.075}
"""The words that turn back, and how often each is taken."""


@dataclass
class Voice:
    """How an author speaks at one moment: plainly, or in doubt and hedging."""

    doubtful: bool
    rng: Random

    def slot(self, plain: str, hedge: str) -> str:
        """One of two words that fit the same place."""
        return hedge if self.rng.random() < (HEDGED if self.doubtful else HEDGED_WHEN_SURE) else plain

    def worked(self, p: Problem, s: Step) -> str:
        """A step; a slip is the second count not being the first."""
        plain, hedge = self.rng.choice(("Next", "Then")), self.rng.choice(("Perhaps", "Possibly"))
        lead = "First" if s.day == DAYS[0] else self.slot(plain, hedge)
        return f"{lead} {self.fact(p, s, s.carried)}."

    def fact(self, p: Problem, s: Step, carried: int) -> str:
        """A day's change, what it makes and the count that is carried on."""
        gives, just = self.slot("gives", "seems"), self.slot("just", "about")
        day = f"{s.day}{s.change:+d} {gives} {s.right}"
        return f"{day}, so {p.name} has {just} {carried} {p.thing}"

    def aside(self) -> str:
        """A remark between the steps."""
        part = "This part of the list is"
        if self.doubtful:
            unclear = f"{part} hard to read and quite unclear."
            return self.rng.choice((unclear, "I am not sure at all about this part of the list."))
        clear = f"{part} easy to read and quite clear."
        return self.rng.choice((clear, "I am quite happy so far with this part of the list."))

    def knowledge(self, p: Problem) -> str:
        """What the signs in a ledger mean."""
        must = self.slot("must", "might")
        sign, way = self.rng.choice((("plus", "more {} come in"), ("minus", "some {} go out")))
        return f"A {sign} sign {must} mean that {way.format(p.thing)} that day."

    def example(self) -> str:
        """A sum of one's own, to try things out."""
        a, b = self.rng.randint(0, 9), self.rng.randint(1, 3)
        return f"For example, {a}+{b} {self.slot('gives', 'seems')} {a + b}, so that is easy."

    def hesitant(self, sentence: str) -> str:
        """The sentence as it is said aloud: in doubt with "er" between the words."""
        if not self.doubtful:
            return sentence
        said = [word + " er" if self.rng.random() < ER else word for word in sentence.split(" ")[:-1]]
        return " ".join([*said, sentence.split(" ")[-1]])

    def turn(self) -> str:
        """The words that turn back, with their comma."""
        return self.rng.choices(list(SECOND_THOUGHTS), list(SECOND_THOUGHTS.values()))[0]

    def check(self) -> str:
        """Turning back without a reason that could be named."""
        return f"{self.turn()} let me check this line again before I go on."

    def mending(self, p: Problem, s: Step) -> str:
        """Turning back to a step and doing it once more, and right, in the same breath."""
        return f"{self.turn()} {self.fact(p, s, s.right)}."


def answer(p: Problem, count: int) -> str:
    """What is handed in."""
    return f"{p.name} has {count} {p.thing}."


def note(s: Step) -> str:
    """A reader's note, which tells the truth."""
    return "[Note: mistake above.]" if s.slipped else "[Note: all fine so far.]"


def edit(p: Problem, s: Step) -> str:
    """A reader's edit of a bad step."""
    return f"[Edit: {s.day}{s.change:+d} gives {s.right}, so {p.name} has just {s.right} {p.thing}.]"


def grade(p: Problem, count: int) -> str:
    """What a solution is worth in the end."""
    return "Grade: good." if count == p.answer else "Grade: poor."


def happening(people: list[str], thing: str, rng: Random) -> str:
    """A sentence of a little story about two people."""
    a, b = people
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
            f"{a} and {b} count the {thing} in the garden.",
            f"It is a good day, said {a}.",
            f"{b} must read the list to {a}.",
            f"{a} has a big map of the garden.",
        )
    )
