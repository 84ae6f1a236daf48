"""Texts of trained models: a condition an arm and training seed, and the tables' columns on how each was trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

from steerkit.artifacts import Condition, Pair
from steerkit.context import Run
from steerkit.report import words
from steerkit.steps.trained_models import TrainedModel
from steerkit.training.arms import Arm
from steerkit.training.settings import Training
from steerkit_plugins.preventative.arms import RANDOM, SHUFFLED
from steerkit_plugins.trained.measured import SEED, UNTRAINED, group_of, labels

FIRST = 3  # steps whose loss is that of the beginning

Trained = Mapping[str, TrainedModel]


def untrained(arms: Iterable[Arm], *, shown: str = "", **more: Any) -> Condition:
    """The model that the arms are made of; arguments as of `conditions_of`."""
    return Condition(model=next(iter(arms)).model, labels=labels(UNTRAINED, "", shown=shown), **more)


def conditions_of(run: Run, arms: Iterable[Arm], *, shown: str = "", **more: Any) -> list[Condition]:
    """Each arm's model of each training seed.

    Args:
        shown: what they are given at test beside the prompt, in words.
        more: the same for conditions: `system`, `prefix`, `interventions`.
    """
    seeds = run.use(Training).training_seeds
    return [
        Condition(
            model=arm.trained(seed), labels=labels(group(arm.name), seed, draw=draw(arm.name), shown=shown), **more
        )
        for arm in arms
        for seed in seeds
    ]


def group(name: str) -> str:
    """What an arm's column in figures is called: draws of a control are one."""
    kind = name.rpartition("+")[2].partition("-")[0]
    return name.rpartition("-")[0] if kind in (RANDOM, SHUFFLED) else name


def draw(name: str) -> int | str:
    """The number of a control's draw; empty for others."""
    return int(name.rpartition("-")[2]) if group(name) != name else ""


def against(conditions: Sequence[Condition], other: str) -> list[Pair]:
    """Every condition against the arm of this name with the same training seed."""
    by_seed = {c.labels[SEED]: c for c in conditions if group_of(c) == other}
    return [
        Pair(ours=c, other=by_seed[c.labels[SEED]])
        for c in conditions
        if group_of(c) not in (other, UNTRAINED) and c.labels[SEED] in by_seed
    ]


def losses(trained: Trained, arms: Iterable[Arm], names: Iterable[str]) -> dict[str, list[str]]:
    """Heading → a cell a name, means over its models: the loss that it was trained with at first, and on held-out rows
    after."""
    by_name: dict[str, list[TrainedModel]] = {}
    begins: list[float] = []
    for arm in arms:
        own = [told for told in trained.values() if told.arm == arm.name]
        by_name.setdefault(group(arm.name), []).extend(own)
        begins += [told.held_out[0] for told in own if told.held_out and not arm.after]
    first: list[str] = []
    after: list[str] = []
    for name in names:
        own = by_name.get(name, [])
        ends = [told.held_out[1] for told in own if told.held_out]
        first.append(_mean([mean(row["loss"] for row in told.log[:FIRST]) for told in own if told.log]))
        after.append(_mean(begins if name == UNTRAINED else ends))
    return {f"training loss, first {FIRST} steps": first, "loss on held-out rows, after": after}


def _mean(values: Sequence[float]) -> str:
    return words.number(mean(values), 3) if values else words.NOTHING
