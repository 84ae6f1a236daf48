"""What judges answer, checked against what they declare: the one door between them and the core."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from numbers import Real
from typing import Any

from steerkit.data.trace import Trace
from steerkit.errors import InputError, Problem, SteerkitError, nearest
from steerkit.interfaces import OTHER, Judge, Metric

SLACK = 1e-9  # rounding may carry a value so far beyond its bounds, relative to them


def name_of(judge: Judge) -> str:
    """The name that the judge is registered by; its class's where it isn't."""
    return judge.name or type(judge).__name__


def metrics_of(judge: Judge) -> list[Metric]:
    """What the judge's `score` returns, as it declares it.

    Raises:
        SteerkitError: it declares nothing, or a name twice.
    """
    metrics = list(judge.metrics())
    names = [metric.name for metric in metrics]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice or not metrics:
        what = f"has {', '.join(map(repr, twice))} more than once" if twice else "is empty"
        raise SteerkitError(f"judge {name_of(judge)!r}: what `metrics` returns {what}")
    return metrics


def annotate(judge: Judge, texts: Sequence[str]) -> list[list[tuple[int, int, str]]]:
    """The judge's spans of each text.

    Raises:
        InputError: it answers more or fewer texts than it was asked, or with a label that it doesn't declare.
    """
    return _checked_spans(judge, texts, judge.annotate(texts))


def annotate_traces(judge: Judge, traces: Sequence[Trace]) -> list[list[tuple[int, int, str]]]:
    """The judge's spans of each trace's text. Raises: InputError as `annotate`."""
    return _checked_spans(judge, [trace.text for trace in traces], judge.annotate_traces(traces))


def _checked_spans(
    judge: Judge, texts: Sequence[str], found: list[list[tuple[int, int, str]]]
) -> list[list[tuple[int, int, str]]]:
    problems, labels = _miscounted("annotate", texts, found), [*judge.labels(), OTHER]
    for label in dict.fromkeys(label for _, _, label in chain.from_iterable(found)):
        if label not in labels:
            fix = nearest(str(label), labels)
            problems.append(Problem("annotate", f"answers with {label!r}, which is not one of its `labels`", fix))
    if problems:
        raise InputError(f"judge {name_of(judge)!r}", problems)
    return found


def score(judge: Judge, texts: Sequence[str]) -> list[dict[str, float]]:
    """The judge's numbers of each text, by metric; one that a text has no value of is left out.

    Raises:
        InputError: they aren't what its `metrics` declares (see `checked`).
    """
    return checked(judge, texts, judge.score(texts))


def checked(judge: Judge, texts: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """A judge's numbers as floats, NaN left out.

    Raises:
        InputError: there is not one mapping a text; a name is not declared; a value is no finite number, or out of
            bounds; or no text has a declared metric. Each kind and metric once, with the first text.
    """
    metrics = {metric.name: metric for metric in metrics_of(judge)}
    faults: dict[tuple[str, str], list[str]] = {}
    found: list[dict[str, float]] = []
    for number, row in enumerate(rows):
        found.append({})
        for name, value in (row if isinstance(row, Mapping) else {"": row}).items():
            if fault := _fault(name, value, metrics):
                faults.setdefault((name, fault), []).append(f"{value!r} for {_text(number, texts)}")
            elif not math.isnan(value):
                found[-1][name] = float(value)
    problems = _miscounted("score", texts, rows)
    for (name, fault), places in faults.items():
        more = f", and for {len(places) - 1} more" if len(places) > 1 else ""
        problems.append(Problem(f"metric {name!r}" if name else "score", f"{fault}: {places[0]}{more}"))
    problems = problems or _never(metrics, texts, rows)
    if problems:
        raise InputError(f"judge {name_of(judge)!r}", problems)
    return found


def _fault(name: str, value: Any, metrics: Mapping[str, Metric]) -> str:
    """What is wrong with a value; empty where nothing is."""
    if not name:
        return "each text needs a mapping from metric to value"
    if name not in metrics:
        return f"`score` returns it, `metrics` doesn't declare it ({nearest(str(name), list(metrics))})"
    if not isinstance(value, Real) or isinstance(value, bool):
        return "its value must be a number"
    value, (low, high) = float(value), metrics[name].limits
    if math.isinf(value):
        return "its value must be finite (NaN, or nothing, where a text has none)"
    if value < low - SLACK * max(1.0, abs(low)) or value > high + SLACK * max(1.0, abs(high)):
        return f"its value is outside the bounds that it declares, [{low:g}, {high:g}]"
    return ""


def _never(metrics: Mapping[str, Metric], texts: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[Problem]:
    """Metrics that no text has, not even as NaN; an empty text needs none."""
    filled, seen = sum(bool(text.strip()) for text in texts), set(chain.from_iterable(rows))
    fix = "return it (NaN where a text has no value), or don't declare it"
    return [
        Problem(f"metric {name!r}", f"`metrics` declares it, `score` returns it for none of {filled} texts", fix)
        for name in metrics
        if filled and name not in seen
    ]


def _miscounted(verb: str, texts: Sequence[str], rows: Sequence[Any]) -> list[Problem]:
    if len(rows) == len(texts):
        return []
    return [Problem(verb, f"returns {len(rows)} items for {len(texts)} texts", "it must return one a text, in order")]


def _text(number: int, texts: Sequence[str]) -> str:
    if number >= len(texts):
        return f"text {number + 1}"
    return f"text {number + 1} of {len(texts)}, {texts[number].strip()[:60]!r}"
