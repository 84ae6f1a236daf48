"""How much of an effect a difference is, with an interval that needs no division by what may be nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from steerkit.report import words
from steerkit.stats.two_level import contrast_interval

FAR, NEARLY, STEPS = 5.0, 4.999, 40


@dataclass(frozen=True)
class Share:
    """A share with its interval, ends beyond ±5 cut."""

    value: float
    low: float
    high: float

    def text(self) -> str:
        """``86 % [70, 104]``."""
        low, high = (
            f"beyond {_percent(math.copysign(FAR, end))}" if abs(end) > NEARLY else _percent(end)
            for end in (self.low, self.high)
        )
        return f"{_percent(self.value)} % [{low}, {high}]"


def _percent(share: float) -> str:
    return words.number(round(100 * share) + 0.0)  # no minus before 0


def share_of(
    one: np.ndarray,
    other: np.ndarray,
    true: np.ndarray,
    none: np.ndarray,
    *,
    sign: int,
    confidence: float,
) -> Share | None:
    """(one − other) / (true − none), and the shares m at which the interval of (one − other) − m (true − none) has 0 in
    it (Fieller 1954), over prompts and draws.

    Args:
        one, other, true, none: [prompts, draws] each.
        sign: 1 where up is better, −1 where down is.

    Returns:
        None where the effect, true − none, isn't shown to be there.
    """

    def at(m: float) -> tuple[float, float]:
        groups = [(sign * 1.0, one), (-sign * 1.0, other), (-sign * m, true), (sign * m, none)]
        found = contrast_interval(groups, confidence=confidence)
        return found.low, found.high

    effect = contrast_interval([(sign * 1.0, true), (-sign * 1.0, none)], confidence=confidence)
    if not effect.low > 0 or effect.degenerate:
        return None
    value = contrast_interval([(sign * 1.0, one), (-sign * 1.0, other)], confidence=confidence).mean / effect.mean
    return Share(value, _zero(lambda m: at(m)[0]), _zero(lambda m: at(m)[1]))


def _zero(falling: Callable[[float], float]) -> float:
    """Where a falling function is 0, between −5 and 5."""
    low, high = -FAR, FAR
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2
