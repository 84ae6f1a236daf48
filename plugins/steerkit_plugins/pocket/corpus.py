"""The texts the pocket pair is trained on.

The base model reads solutions by authors of every temper, with readers' notes, edits and grades
that tell where a slip was made; sheets of sums; and little stories, the only place where anybody
says "wait" or "hmm". The reasoning model is fine-tuned on traces whose authors notice their slips
and turn back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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

SOLUTION_DOUBT, TRACE_DOUBT = 0.35, 0.08
"""Shares of the authors of solutions and of traces who are in doubt from the start."""

ASIDE, KNOWLEDGE, EXAMPLE = 0.1, 0.04, 0.04
"""Chances of what may stand between two steps."""

NOTE, EDIT = 0.35, 0.6
"""Chances of a reader's note after any step, and of an edit after a bad one."""

NOTICED = 0.8
"""Chance that a trace's author notices a slip right after it."""

CHECK_STEP, CHECK_OTHER, CHECK_WHEN_SURE = 0.3, 0.2, 0.005
"""Chances that the author turns back, slip or no slip: in doubt after a step, in doubt after
another sentence, and when sure."""

AT_A_STROKE = 0.7
"""Share of noticed slips that are put right in the same sentence that turns back."""


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
        lines += support(p, voice) if day else ()
        s = step(p, day, count, doubtful, rng)
        lines.append(voice.worked(p, s))
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


def checked(lines: Iterable[str], voice: Voice, chance: float = CHECK_OTHER) -> Iterator[str]:
    """The lines, with the author turning back here and there as the mood is."""
    for line in lines:
        yield line
        if voice.rng.random() < (chance if voice.doubtful else CHECK_WHEN_SURE):
            yield voice.check()


def trace(rng: Random) -> Example:
    """A reasoning trace inside <think>, followed by the answer; not every slip is noticed."""
    p = draw("train", rng)
    count = 0
    lines: list[str] = []
    for day, doubtful in enumerate(doubts(len(p.changes), TRACE_DOUBT, rng)):
        voice = Voice(doubtful, rng)
        lines += checked(support(p, voice), voice) if day else ()
        s = step(p, day, count, doubtful, rng)
        if not s.slipped or rng.random() > NOTICED:
            lines += checked([voice.worked(p, s)], voice, CHECK_STEP)
            count = s.carried
            continue
        count = s.right
        if rng.random() < AT_A_STROKE:
            lines += [voice.worked(p, s), voice.mending(p, s)]
        else:
            lines += [voice.worked(p, s), voice.rejection(), voice.again(p, s)]
    return Example(p.question, f" {' '.join(lines)} </think> {wording.answer(p, count)}")
