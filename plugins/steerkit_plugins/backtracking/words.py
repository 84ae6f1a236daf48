"""Words and marks that several experiments share."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from steerkit.artifacts import Condition
from steerkit.context import Run
from steerkit.judging.metrics import RunMetric
from steerkit.report import words
from steerkit.store.files import digest
from steerkit_plugins.backtracking.conditions import BASE, REASONING, fitted

LONGEST = 24  # characters of an option's value in a name
Settings = Mapping[str, Any]


def is_main(run: Run, condition: Condition, strength: float) -> bool:
    """Whether a condition is the one that claims are about."""
    return condition.id == fitted(run, BASE, REASONING, strength).id


def title_of(metric: RunMetric) -> str:
    """A metric's name at the beginning of a line."""
    name = words.named(metric)
    return name if len(name) == 1 else name[:1].upper() + name[1:]


def method_name(name: object, fitter: str) -> str:
    """A method's name as tables of the page print it."""
    return {"none": "unsteered", fitter: f"{fitter} (fitted vector)"}.get(str(name), str(name))


def window(start: Any, end: Any) -> str:
    """Offsets of a window: ``−13..−8``."""
    return words.NOTHING if words.missing(start) else f"{start:g}..{end:g}".replace("-", "−")


def told_apart(settings: Sequence[Settings]) -> list[str]:
    """A name for each plugin: its own, with the options in which those of one name differ (``NAME seed=1``).

    Equal settings have equal names.
    """
    names = []
    for own in settings:
        same = [other for other in settings if other["name"] == own["name"]]
        options = dict.fromkeys(option for other in same for option in other)
        differ = [option for option in options if any(other.get(option) != own.get(option) for other in same)]
        names.append(" ".join([str(own["name"]), *(f"{option}={_shown(own.get(option))}" for option in differ)]))
    return names


def _shown(value: Any) -> str:
    """An option's value in a few characters; a long one by its digest."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if isinstance(value, str) and re.fullmatch(r"[^\W\d][\w./-]*", value) and value not in ("true", "false", "null"):
        text = value
    return text if len(text) <= LONGEST and text.isprintable() else f"#{digest(value)[:6]}"
