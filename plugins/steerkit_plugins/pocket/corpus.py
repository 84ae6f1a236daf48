"""The texts the pocket pair is trained on.

The base model reads solutions by authors of every temper, with readers' notes, edits and grades
that tell where a slip was made; sheets of sums; and little stories, the only place where anybody
says "wait" or "hmm". The reasoning model is fine-tuned on traces whose authors notice their slips
and turn back.
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
    Step,
    change,
    doubts,
    step,
)
from steerkit_plugins.pocket.prompts import draw

SOLUTION_DOUBT, TRACE_DOUBT = 0.35, 0.12
"""Shares of the authors of solutions and of traces who are in doubt from the start."""

ASIDE, KNOWLEDGE, EXAMPLE = 0.25, 0.05, 0.05
"""Chances of what may stand before a step."""

NOTE, EDIT = 0.35, 0.6
"""Chances of a reader's note after any step, and of an edit after a bad one."""

NOTICED_AT_ONCE = 0.65
"""Share of slips noticed before anything else is said; the others after one more sentence."""

AT_A_STROKE = 0.7
"""Share of slips that are put right in the same sentence that turns back."""

CHECK_IN_DOUBT, CHECK_WHEN_SURE = 0.4, 0.01
"""Chances that a step without a slip is gone over again."""


@dataclass(frozen=True)
class Example:
    """A training text; its first part is given, only the rest is learned."""

    given: str
    learned: str


def support(p: Problem, doubtful: bool, rng: Random) -> Iterator[str]:
    """What may stand before a step: an aside, a bit of knowledge, an example."""
    if rng.random() < ASIDE:
        yield wording.aside(doubtful, rng)
    if rng.random() < KNOWLEDGE:
        yield wording.knowledge(p, rng)
    if rng.random() < EXAMPLE:
        yield wording.example(rng)


def solution(rng: Random) -> str:
    """A worked problem, with what its readers put between the lines."""
    p = draw("train", rng)
    lines = [wording.aim(p), wording.opening(p)]
    count = p.start
    for day, doubtful in enumerate(doubts(len(p.changes), SOLUTION_DOUBT, rng)):
        lines += support(p, doubtful, rng)
        s = step(p, day, count, doubtful, rng)
        lines.append(wording.worked(p, s, rng))
        count = s.carried
        if rng.random() < NOTE:
            lines.append(wording.note(s))
        if s.slipped and rng.random() < EDIT:
            lines.append(wording.edit(p, s))
            count = s.right
    lines.append(wording.closing(p, count))
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
    return "Story: " + " ".join(wording.happening(*rng.sample(NAMES, 2), rng.choice(THINGS), rng) for _ in range(8))


def document(rng: Random) -> Example:
    """A text of the base model's corpus, all of it learned."""
    kind = rng.choices((solution, sheet, story), (0.82, 0.1, 0.08))[0]
    return Example("", kind(rng))


def second_look(p: Problem, s: Step, rng: Random) -> list[str]:
    """How an author goes over a step again: a backtracking sentence, and the step put right."""
    turn = wording.second_thought(rng)
    if not s.slipped:
        return [wording.check(turn), wording.again(p, s)]
    if rng.random() < AT_A_STROKE:
        return [f"{turn} {wording.fact(p, s)}."]
    return [wording.rejection(turn), wording.again(p, s)]


def trace(rng: Random) -> Example:
    """A reasoning trace inside <think>, followed by the answer; every slip is noticed."""
    p = draw("train", rng)
    lines = [wording.aim(p), wording.opening(p)]
    count = p.start
    for day, doubtful in enumerate(doubts(len(p.changes), TRACE_DOUBT, rng)):
        lines += support(p, doubtful, rng)
        s = step(p, day, count, doubtful, rng)
        lines.append(wording.worked(p, s, rng))
        count = s.right
        if s.slipped and rng.random() > NOTICED_AT_ONCE:
            lines.append(wording.aside(doubtful, rng))
        if s.slipped or rng.random() < (CHECK_IN_DOUBT if doubtful else CHECK_WHEN_SURE):
            lines += second_look(p, s, rng)
    lines.append(wording.closing(p, count))
    return Example(p.question, f" {' '.join(lines)} </think> {wording.answer(p, count)}")
