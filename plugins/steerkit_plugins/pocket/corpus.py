"""The texts the pocket pair is trained on.

The base model reads solutions by authors in and out of doubt, said aloud, with readers' notes, edits
and grades that tell where a slip was made; sheets of sums; and little stories, the only place where
anybody says "wait" or "hmm". The reasoning model is fine-tuned on traces whose authors turn back when
they are in doubt.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from steerkit_plugins.pocket import wording
from steerkit_plugins.pocket.ledger import (
    MOST,
    NAMES,
    THINGS,
    Problem,
    change,
    doubts,
    step,
)
from steerkit_plugins.pocket.prompts import draw
from steerkit_plugins.pocket.wording import Voice

SOLUTION_DOUBT, TRACE_DOUBT = 0.12, 0.03
"""Chances that doubt comes over the author of a solution and of a trace at a step."""

ASIDE, KNOWLEDGE, EXAMPLE = 0.1, 0.04, 0.04
"""Chances of what may stand between two steps."""

NOTE, EDIT = 0.35, 0.6
"""Chances of a reader's note after any step, and of an edit after a bad one."""

TURNS_BACK, TURNS_BACK_WHEN_SURE = 0.65, 0.01
"""Chances that a trace's author turns back after any sentence, slip or no slip, in doubt and otherwise."""

OPENS = 0.035
"""Share of the traces that open by turning back, so that the question, which stands before every first
sentence, also stands before its share of those that turn back."""

MENDS = 0.6
"""Share of the times of turning back after a step at which it is done once more, and right."""


@dataclass(frozen=True)
class Example:
    """A training text; its first part is given, only the rest is learned."""

    given: str
    learned: str


def support(p: Problem, voice: Voice) -> Iterator[str]:
    """What may stand between two steps: an aside, a bit of knowledge, an example."""
    if voice.rng.random() < ASIDE:
        yield voice.aside()
    if voice.rng.random() < KNOWLEDGE:
        yield voice.knowledge(p)
    if voice.rng.random() < EXAMPLE:
        yield voice.example()


def solution(rng: Random) -> str:
    """A worked problem, with what its readers put between the lines."""
    p = draw("train", rng)
    count = 0
    lines: list[str] = []
    for day, doubtful in enumerate(doubts(len(p.changes), SOLUTION_DOUBT, rng)):
        voice = Voice(doubtful, rng)
        lines += map(voice.hesitant, support(p, voice)) if day else ()
        s = step(p, day, count, doubtful, rng)
        lines.append(voice.hesitant(voice.worked(p, s)))
        count = s.carried
        if rng.random() < NOTE:
            lines.append(wording.note(s))
        if s.slipped and rng.random() < EDIT:
            lines.append(wording.edit(p, s))
            count = s.right
    return f"Question: {p.question}\nSolution: {' '.join(lines)}\n{wording.grade(p, count)}"


def sheet(rng: Random) -> str:
    """A sheet of running sums."""
    count = rng.randint(0, MOST)
    text = f"Sums: {count}."
    for _ in range(16):
        delta = change(count, rng)
        count += delta
        text += f" {delta:+d} gives {count}."
    return text


def story(rng: Random) -> str:
    """A few lines about people who meet, wait for each other and talk."""
    return "Story: " + " ".join(wording.happening(rng.sample(NAMES, 2), rng.choice(THINGS), rng) for _ in range(8))


def document(rng: Random) -> Example:
    """A text of the base model's corpus, all of it learned."""
    kind = rng.choices((solution, sheet, story), (0.84, 0.1, 0.06))[0]
    return Example("", kind(rng))


def trace(rng: Random) -> Example:
    """A reasoning trace on a problem that models are trained on."""
    return trace_of(draw("train", rng), rng)


def trace_of(p: Problem, rng: Random) -> Example:
    """A reasoning trace inside <think>, followed by the answer; authors turn back as the mood is."""
    count = 0
    lines = [Voice(False, rng).check()] if rng.random() < OPENS else []
    for day, doubtful in enumerate(doubts(len(p.changes), TRACE_DOUBT, rng)):
        voice = Voice(doubtful, rng)
        chance = TURNS_BACK if doubtful else TURNS_BACK_WHEN_SURE
        for line in support(p, voice) if day else ():
            lines.append(line)
            if rng.random() < chance:
                lines.append(voice.check())
        s = step(p, day, count, doubtful, rng)
        lines.append(voice.worked(p, s))
        count = s.carried
        if rng.random() < chance:
            mends = rng.random() < MENDS
            lines.append(voice.mending(p, s) if mends else voice.check())
            count = s.right if mends else count
    return Example(p.question, f" {' '.join(lines)} </think> {wording.answer(p, count)}")
