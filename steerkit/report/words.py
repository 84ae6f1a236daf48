"""Figures in words: numbers, percentages, intervals, and metrics with their units; for the report and experiments."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from steerkit.interfaces import Metric

NOTHING = "–"
LOWER = "lower is better"


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


def value(number: Any, metric: Metric, *, signed: bool = False) -> str:
    """A metric's value, or a difference of two, without the unit: shares in percent."""
    if metric.of:
        return percent(number, signed=signed)
    if missing(number):
        return NOTHING
    low, high = metric.limits
    size = abs(float(number))
    span = high - low if math.isfinite(high - low) else 10.0 if size >= 0.005 or not size else 10 * size
    digits = _digits(size) + max(0, 1 - math.floor(math.log10(span)))
    text = f"{float(number):{'+' if signed else ''},.{digits}f}"
    zero = float(text.replace(",", "")) == 0
    return _minus(text.lstrip("+-") if zero else text)


def difference(metrics: Iterable[Metric]) -> str:
    """Heading of a column of differences: their unit where they have one."""
    return "difference, points" if all(metric.of for metric in metrics) else "difference"


def unit(metric: Metric) -> str:
    """The unit that `value` is in."""
    return f"% of {metric.of}" if metric.of else metric.unit


def factor(metric: Metric) -> float:
    """What a value is multiplied by to be in that unit."""
    return 100.0 if metric.of else 1.0


def named(metric: Metric) -> str:
    """The metric's name in prose, with its unit where it is not a share, and its direction where that is down."""
    more = [*([] if metric.of else [metric.unit]), *([LOWER] if metric.better == "down" else [])]
    return (metric.title or metric.name) + (f" ({', '.join(more)})" if more else "")


def heading(metric: Metric) -> str:
    """Title of a panel."""
    lower = f" ({LOWER})" if metric.better == "down" else ""
    return cut(metric.about or metric.title or metric.name) + lower


def cut(text: str, most: int = 50) -> str:
    """A text of at most so many characters, as a figure has room for."""
    return text if len(text) <= most else text[: most - 1] + "…"


def _digits(value: float) -> int:
    return 1 if abs(value) >= 9.995 else 2


def p_value(p: float) -> str:
    """Two digits after the first zeros, none below a thousandth: ``0.012``, ``< 0.001``."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def interval(low: Any, high: Any, metric: Metric | None = None, *, signed: bool = False) -> str:
    """Both ends of an interval of a metric's values, or of shares in percent: ``[0.40, 1.23]``."""
    if missing(low) or missing(high):
        return NOTHING
    ends = (value(end, metric, signed=signed) if metric else percent(end, signed=signed) for end in (low, high))
    return f"[{', '.join(ends)}]"


def number(value: Any, digits: int = 0) -> str:
    """A number with thousands separated; a dash for none."""
    return NOTHING if missing(value) else _minus(f"{value:,.{digits}f}")


def signed(value: Any) -> str:
    """A number with its sign and three digits after the point."""
    return NOTHING if missing(value) else _minus(f"{value:+.3f}")


def short(value: Any) -> str:
    """A number with as few digits as it has."""
    return NOTHING if missing(value) else _minus(f"{value:g}")


def _minus(text: str) -> str:
    return text.replace("-", "−")
