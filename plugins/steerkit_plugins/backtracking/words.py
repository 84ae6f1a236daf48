"""Words and marks that several experiments share."""

from __future__ import annotations

from typing import Any

from steerkit.artifacts import Condition
from steerkit.context import Run
from steerkit.judging.metrics import RunMetric
from steerkit.report import words
from steerkit.steps.results import Results
from steerkit_plugins.backtracking.conditions import BASE, REASONING, fitted


def is_main(run: Run, condition: Condition, strength: float) -> bool:
    """Whether a condition is the one that claims are about."""
    return condition.id == fitted(run, BASE, REASONING, strength).id


def title_of(metric: RunMetric) -> str:
    """A metric's name at the beginning of a line."""
    name = words.named(metric)
    return name if len(name) == 1 else name[:1].upper() + name[1:]


def strength_label(results: Results) -> str:
    """What the norm that is added is measured in."""
    unit = {"unit": "", "raw": " × the vector's own length", "mean-norm": " × the mean activation's length"}
    return f"norm added{unit.get(results.scale, '')}"


def pages(what: str, results: Results) -> str:
    """A figure's heading: what it is, and how many prompts and which intervals."""
    n = max((int(row["n_prompts"]) for row in results.rows), default=0)
    return f"{what} (n = {n} test prompts, {results.level} intervals)"


def method_name(name: object, fitter: str) -> str:
    """A method's name as tables of the page print it."""
    return {"none": "unsteered", fitter: f"{fitter} (fitted vector)"}.get(str(name), str(name))


def window(start: Any, end: Any) -> str:
    """Offsets of a window: ``−13..−8``."""
    return words.NOTHING if words.missing(start) else f"{start:g}..{end:g}".replace("-", "−")
