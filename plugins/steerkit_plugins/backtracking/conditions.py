"""The paper's conditions: a vector of either model on either model, and what adds the same norm in its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from steerkit.artifacts import Condition, PluginSpec, VectorKey
from steerkit.context import Run
from steerkit.data.generated import Label
from steerkit.errors import Problem, nearest
from steerkit.settings import Fitting, Steering

BASE, REASONING = "base", "reasoning"
UNSTEERED = "none"


def labels_of(
    source: str, target: str, method: str, strength: float, layer: Any = "", vector: VectorKey | None = None
) -> dict[str, Label]:
    """The columns that name a condition; empty where they don't apply."""
    start, end = vector.window if vector else ("", "")
    return {
        "source": source,
        "target": target,
        "method": method,
        "layer": layer,
        "window_start": start,
        "window_end": end,
        "pool": vector.pool if vector else "",
        "strength": strength,
    }


def plain(run: Run, target: str) -> Condition:
    """A model as it is."""
    return run.unsteered(target, labels_of("none", target, UNSTEERED, 0.0))


def fitted(
    run: Run, source: str, target: str, strength: float, *, layer: int | None = None, vector: VectorKey | None = None
) -> Condition:
    """The fitted vector of a source on a target; another window's adds the same norm."""
    layer = run.peek(Steering).layer if layer is None else layer
    vector = vector or run.vector(source)
    labels = labels_of(source, target, method_of(run), strength, layer, vector)
    return run.steered(target, vector, strength, layer=layer, norm_of=run.vector(source), labels=labels)


def instead(
    run: Run, method: str, strength: float, *, steerer: PluginSpec | None = None, vector: VectorKey | None = None
) -> Condition:
    """Something else on the reasoning model that adds the norm of the base-derived vector."""
    layer = run.peek(Steering).layer
    labels = labels_of(BASE if vector else "none", REASONING, method, strength, layer, vector)
    return run.steered(REASONING, vector, strength, steerer=steerer, norm_of=run.vector(BASE), labels=labels)


def unknown_models(run: Run, named: Mapping[str, str | None]) -> Iterator[Problem]:
    """Models that the run doesn't have. `named`: key in the recipe → the name that is given there."""
    for key, name in named.items():
        if name is not None and name not in run.models.specs:
            yield Problem(key, f"no model is called {name!r}; {nearest(name, list(run.models))}")


def method_of(run: Run) -> str:
    """What the fitted vector's method is called in tables: the fitter's name."""
    return run.peek(Fitting).fitter.name


def is_plain(condition: Condition) -> bool:
    """Whether nothing is done to the model."""
    return condition.labels["method"] == UNSTEERED


def like(condition: Condition, **labels: Label) -> bool:
    """Whether a condition has these labels."""
    own: Mapping[str, Label] = condition.labels
    return all(own[name] == value for name, value in labels.items())
