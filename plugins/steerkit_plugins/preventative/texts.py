"""Texts of trained models: a condition an arm and training seed, and the tables' columns on how each was trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import mean

from steerkit.artifacts import Condition, Pair
from steerkit.context import Run
from steerkit.report import words
from steerkit.steps.trained_models import TrainedModel
from steerkit.training.arms import Arm
from steerkit.training.settings import Training
from steerkit_plugins.preventative.arms import RANDOM, SHUFFLED
from steerkit_plugins.preventative.measured import ARM, SEED, UNTRAINED, labels

FIRST = 3  # steps whose loss is that of the beginning

Trained = Mapping[str, TrainedModel]


def untrained(arms: Iterable[Arm]) -> Condition:
    """The model that the arms are made of."""
    return Condition(model=next(iter(arms)).model, labels=labels(UNTRAINED, ""))


def conditions_of(run: Run, arms: Iterable[Arm], **more: str) -> list[Condition]:
    """Each arm's model of each training seed.

    Args:
        more: of a condition (`system`, `prefix`), the same for all.
    """
    seeds = run.use(Training).training_seeds
    return [
        Condition(model=arm.trained(seed), labels=labels(group(arm.name), seed, draw(arm.name)), **more)
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
    by_seed = {c.labels[SEED]: c for c in conditions if c.labels[ARM] == other}
    return [
        Pair(ours=c, other=by_seed[c.labels[SEED]])
        for c in conditions
        if c.labels[ARM] not in (other, UNTRAINED) and c.labels[SEED] in by_seed
    ]


def losses(trained: Trained, names: Iterable[str]) -> dict[str, list[str]]:
    """Heading → a cell an arm, means over its models: the loss that it was trained with at first, and on held-out
    rows after."""
    by_arm: dict[str, list[TrainedModel]] = {}
    for told in trained.values():
        by_arm.setdefault(group(told.arm), []).append(told)
    first: list[str] = []
    after: list[str] = []
    for name in names:
        own = by_arm.get(name, [])
        begun = [mean(row["loss"] for row in told.log[:FIRST]) for told in own if told.log]
        ended = [told.held_out[1] for told in own if told.held_out]
        first.append(words.number(mean(begun), 3) if begun else words.NOTHING)
        after.append(words.number(mean(ended), 3) if ended else words.NOTHING)
    if name_less := [told.held_out[0] for told in trained.values() if told.held_out and UNTRAINED in names]:
        after[list(names).index(UNTRAINED)] = words.number(mean(name_less), 3)
    return {f"training loss, first {FIRST} steps": first, "loss on held-out rows, after": after}
