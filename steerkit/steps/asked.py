"""What an experiment asks for: its conditions and pairs, held against what tables can show and models have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from steerkit.artifacts import Condition, Pair
from steerkit.context import Run
from steerkit.data.generated import Generation
from steerkit.errors import SteerkitError
from steerkit.models.language_model import check_layer
from steerkit.parts import Experiment
from steerkit.steps.results import DIFFERENCES, FIGURES

COLUMNS = {"experiment", "split", "condition", *FIGURES, *DIFFERENCES} | (
    {field.name for field in fields(Generation)} - {"labels"}
)
"""Names that no label of a condition may have."""


def asked_of(run: Run, name: str, experiment: Experiment, *needs: Any) -> tuple[list[Condition], list[Pair]]:
    """The conditions and pairs of an experiment.

    Args:
        needs: the artifacts that the experiment's `needs` names, or what stands for them in a plan.

    Raises:
        SteerkitError: they are something else, tables can't tell the conditions apart, a pair is of others, or a model
            has no such block.
    """
    own, who = run.of(experiment, name), f"experiment {name}"
    conditions: Any = experiment.conditions(own, *needs)
    if not _all_are(Condition, conditions):
        raise SteerkitError(f"{who}: conditions() gave {conditions!r:.60}; return a list of conditions")
    _check_labels(who, conditions)
    for condition in conditions:
        for placed in condition.interventions:
            check_layer(placed.layer, condition.model, run.models.depth(condition.model), f"{who}: layer")
    pairs: Any = experiment.pairs(own, conditions)
    if not _all_are(Pair, pairs):
        raise SteerkitError(f"{who}: pairs() gave {pairs!r:.60}; return a list of Pair(ours=..., other=...)")
    _check_pairs(who, conditions, pairs)
    return list(conditions), list(pairs)


def planned_needs(run: Run, name: str, experiment: Experiment) -> list[Any]:
    """What stands for an experiment's needs before anything has run: its own stand-in, None for a step's artifact."""
    needs = experiment.needs(run.of(experiment, name))
    return [run.experiments[need].planned(run) if need in run.experiments else None for need in needs]


def _all_are(kind: type, found: Any) -> bool:
    return isinstance(found, Sequence) and all(isinstance(each, kind) for each in found)


def _check_labels(who: str, conditions: Sequence[Condition]) -> None:
    """A condition twice, two of the same labels, and labels that are called like other columns."""
    for number, condition in enumerate(conditions):
        if taken := sorted(set(condition.labels) & COLUMNS):
            raise SteerkitError(
                f"{who}: a condition's label is called {taken[0]!r}, as a column of the tables or a field of the texts "
                "is; rename it"
            )
        for other in conditions[:number]:
            if other.id == condition.id:
                raise SteerkitError(
                    f"{who}: asks for one condition twice, as {in_words(other.labels)} and as "
                    f"{in_words(condition.labels)}; leave one out"
                )
            if dict(other.labels) == dict(condition.labels):
                raise SteerkitError(
                    f"{who}: two conditions have the same labels ({in_words(condition.labels)}), so that no table can "
                    "tell them apart; give them `labels={...}` of their own"
                )


def _check_pairs(who: str, conditions: Iterable[Condition], pairs: Iterable[Pair]) -> None:
    wanted = {condition.id for condition in conditions}
    for side in (side for pair in pairs for side in (pair.ours, pair.other)):
        if side.id not in wanted:
            raise SteerkitError(f"{who}: compares a condition that is not among its own: {in_words(side.labels)}")


def in_words(labels: Mapping[str, Any]) -> str:
    """A condition by its labels, in a line; empty ones are left out."""
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in labels.items()
        if value != ""
    )
