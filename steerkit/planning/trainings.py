"""What a plan says of the models that a run trains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from steerkit import registry
from steerkit.context import Run
from steerkit.settings import Generating
from steerkit.training.settings import Training

BATCH, EPOCHS = 8, 3  # transformers' own, where `training_arguments` don't say
PROMPT = 100  # tokens, about
STATE = 16  # bytes a trained number: itself, its gradient and Adam's two means, in float32


def training_lines(run: Run) -> list[str]:
    """Arms, seeds and optimizer steps; nothing for a run that trains none."""
    if not run.arms:
        return []
    s = run.peek(Training)
    arms, seeds = len(run.arms), len(s.training_seeds)
    steps = sorted({_steps(s, arm.arguments) for arm in run.arms.values()})
    told = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
    rows = f"{s.train_rows:,} rows, {s.held_out_rows:,} held out" if s.held_out else f"{s.train_rows:,} rows"
    adapters = ", ".join(dict.fromkeys((arm.adapter or s.adapter).name for arm in run.arms.values()))
    objectives = ", ".join(dict.fromkeys((arm.objective or s.objective).name for arm in run.arms.values()))
    return [
        f"trainings       {arms * seeds}: {arms} arms × {seeds} seeds, {told} steps each on {rows}; adapter "
        f"{adapters}, objective {objectives}",
        *_sizes(run, s),
    ]


def _sizes(run: Run, s: Training) -> list[str]:
    """How much is trained of each model, where its shape tells."""
    found: dict[str, None] = {}
    for arm in run.arms.values():
        spec, shape = arm.adapter or s.adapter, run.models.shape(arm.model)
        count = registry.build("adapters", spec).count(shape) if shape.parameters else None
        if count:
            share, size = 100 * count / shape.parameters, count * STATE / 2**30
            told = f"{count:,} numbers ({share:.3g} % of {arm.model}), {size:.1f} GiB with gradients and Adam"
            found[f"trained         {told}"] = None
    return list(found)


def trained_tokens(run: Run) -> int:
    """Tokens that trainings go through in steps of one forward and one backward, every row being as long as a text may
    be, or as its `max_row_tokens`."""
    if not run.arms:
        return 0
    s = run.peek(Training)
    longest = s.max_row_tokens or PROMPT + run.peek(Generating).max_new_tokens
    rows = 0.0
    for arm in run.arms.values():
        cost = registry.get("objectives", (arm.objective or s.objective).name).cost
        rows += _steps(s, arm.arguments) * _batch(s, arm.arguments) * cost
    return int(rows * len(s.training_seeds) * longest)


def _batch(s: Training, own: Mapping[str, Any]) -> int:
    given = {**s.training_arguments, **own}
    return int(given.get("per_device_train_batch_size", BATCH)) * int(given.get("gradient_accumulation_steps", 1))


def _steps(s: Training, own: Mapping[str, Any]) -> int:
    given = {**s.training_arguments, **own}
    if (most := int(given.get("max_steps", -1))) > 0:
        return most
    return math.ceil(math.ceil(s.train_rows / _batch(s, own)) * float(given.get("num_train_epochs", EPOCHS)))
