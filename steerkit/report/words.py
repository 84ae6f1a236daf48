"""Figures in words: percentages, intervals, names of methods and conditions."""

from __future__ import annotations

import math
from typing import Any

NOTHING = "–"
METRIC_NAMES = {
    "keyword": "b",
    "keyword_uncollapsed": "b, collapsed texts as unsteered",
    "judged_sentences": "judged sentences",
    "judged_uncollapsed": "judged sentences, collapsed texts as unsteered",
    "other_sentences": "other sentences",
    "accuracy": "right answers",
}
METRIC_UNITS = {
    "keyword": "% of words",
    "keyword_uncollapsed": "% of words",
    "judged_sentences": "% of sentences",
    "judged_uncollapsed": "% of sentences",
    "other_sentences": "% of sentences",
    "accuracy": "% of texts",
}


def missing(value: Any) -> bool:
    """Whether a cell holds no number."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def percent(share: Any, *, signed: bool = False) -> str:
    """A share in [0, 1] as a percentage without its sign, two or three digits: 0.0123 → ``1.23``."""
    if missing(share):
        return NOTHING
    value = 100 * float(share)
    text = f"{value:+.{_digits(value)}f}" if signed else f"{value:.{_digits(value)}f}"
    zero = float(text) == 0
    return _minus(text.lstrip("+-") if zero else text)


def cut(text: str, most: int = 50) -> str:
    """A text of at most so many characters, as a figure has room for."""
    return text if len(text) <= most else text[: most - 1] + "…"


def _digits(value: float) -> int:
    return 1 if abs(value) >= 9.995 else 2


def p_value(p: float) -> str:
    """Two digits after the first zeros, none below a thousandth: ``0.012``, ``< 0.001``."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def interval(low: Any, high: Any, *, signed: bool = False) -> str:
    """Both ends of an interval of shares, in percent: ``[0.40, 1.23]``."""
    if missing(low) or missing(high):
        return NOTHING
    return f"[{percent(low, signed=signed)}, {percent(high, signed=signed)}]"


def number(value: Any, digits: int = 0) -> str:
    """A number with thousands separated; a dash for none."""
    return NOTHING if missing(value) else _minus(f"{value:,.{digits}f}")


def signed(value: Any) -> str:
    """A number with its sign and three digits after the point."""
    return NOTHING if missing(value) else _minus(f"{value:+.3f}")


def short(value: Any) -> str:
    """A number with as few digits as it has."""
    return NOTHING if missing(value) else _minus(f"{value:g}")


def window(start: Any, end: Any) -> str:
    """Offsets of a window: ``−13..−8``."""
    return NOTHING if missing(start) else _minus(f"{start:g}..{end:g}")


def method(name: Any, fitter: str) -> str:
    """A method's name as the report prints it."""
    return {"none": "unsteered", fitter: f"{fitter} (fitted vector)"}.get(str(name), str(name))


def _minus(text: str) -> str:
    return text.replace("-", "−")
