"""Answers to points from 0 to 100, or why there are none."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from steerkit_plugins.llm.completion import Answer
from steerkit_plugins.llm.failures import Failure, refused, unusable

POINTS = re.compile(r"0|[1-9][0-9]?|100")
"""A whole number from 0 to 100 as it is written."""

_SCALE = re.compile(r"\b[01]\s*(?:to|-|–|and)\s*100\b")
_OTHER_SCALE = re.compile(r"\s*(?:/|out of)\s*(?!100\b)[0-9]")
_NUMERAL = re.compile(r"(?<!\w)[-−]?[0-9](?:[\w.,–-]*\w)?")
_REFUSAL = re.compile(r"\W*refus(?:al|ed)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Reading:
    """Points that a text gets.

    Attributes:
        value: from 0 to 100.
        share: of the first token's probability that is on numbers, or of the answers that say one; in (0, 1].
    """

    value: float
    share: float


def expectation(answer: Answer, min_mass: float) -> Reading | Failure:
    """Σ p·i / Σ p over the tokens that are whole numbers i from 0 to 100, as persona vectors' code does it.

    Whitespace around a token doesn't count; probabilities of several tokens for one number add up. A model that would
    rather not say a number is one that refuses.
    """
    if failure := refused(answer):
        return failure
    if not answer.top_logprobs:
        return Failure("no logprobs", answer.content[:80], answer)
    masses = [
        (int(token), math.exp(value)) for text, value in answer.top_logprobs if POINTS.fullmatch(token := text.strip())
    ]
    total = math.fsum(p for _, p in masses)
    if total < min_mass:
        first = answer.top_logprobs[0][0]
        return Failure("refused", f"numbers have {total:.2f} of the probability, the answer begins {first!r}", answer)
    return Reading(math.fsum(p * points for points, p in masses) / total, total)


def number(answer: Answer) -> Reading | Failure:
    """The first number that an answer says, where that is a whole one from 0 to 100.

    ``85``, ``Score: 85.``, ``85/100``, ``85%`` and ``From 0 to 100, I say 85`` are 85. ``850``, ``-3``, ``85.5``,
    ``80-90`` and ``8/10`` are no such number, and what follows on them isn't looked at.
    """
    if failure := unusable(answer):
        return replace(failure, kind="no number") if failure.kind == "not the form" else failure
    if _REFUSAL.match(answer.said):
        return Failure("refused", answer.said[:80], answer)
    said = _SCALE.sub(" ", answer.said)
    found = _NUMERAL.search(said)
    if answer.finish == "length" and (found is None or found.end() == len(said)):  # maybe the 8 of 85
        return Failure("cut off", answer.said[-80:], answer)
    if found is None or not POINTS.fullmatch(found[0]) or _OTHER_SCALE.match(said, found.end()):
        return Failure("no number", answer.said[:80], answer)
    return Reading(float(found[0]), 1.0)


def mean(answers: Sequence[Answer], min_mass: float) -> Reading | Failure:
    """The mean of the numbers that several answers say; none where too few say one, for the commonest reason."""
    readings = [number(answer) for answer in answers]
    values = [reading.value for reading in readings if isinstance(reading, Reading)]
    failures = [reading for reading in readings if isinstance(reading, Failure)]
    if len(values) < min_mass * len(answers):
        (kind, _), *_ = Counter(failure.kind for failure in failures).most_common(1)
        return next(failure for failure in failures if failure.kind == kind)
    return Reading(math.fsum(values) / len(values), len(values) / len(answers))
