"""What experiments on trained models say alike."""

from __future__ import annotations

from collections.abc import Mapping

from steerkit.context import Run
from steerkit.report import words
from steerkit.steps.results import Results
from steerkit.training.settings import Training
from steerkit_plugins.experiments.measured import capital
from steerkit_plugins.trained.measured import Measured

FEW = 10  # training seeds below which an interval over them is a rough one


def few_seeds(run: Run) -> tuple[str, ...]:
    """A caution where intervals rest on few training seeds."""
    seeds = len(run.use(Training).training_seeds)
    if seeds == 1:
        return ("One training seed: intervals cover prompts alone, and nothing is said about another training.",)
    if seeds < FEW:
        return (
            f"Few training seeds: intervals rest on {seeds}. With fewer than {FEW}, an interval over them is wide, and "
            "can miss the true value more often than its level says (docs/statistics.md).",
        )
    return ()


def heading(run: Run, results: Results) -> str:
    """What a figure rests on."""
    n = max((int(row["n_prompts"]) for row in results.rows), default=0)
    return f"n = {n} prompts, {over_seeds(run)}, {results.level} intervals"


def over_seeds(run: Run) -> str:
    """How many training seeds there are."""
    seeds = len(run.use(Training).training_seeds)
    return f"{seeds} training seed{'s' * (seeds > 1)}"


def told(main: Measured, names: Mapping[str, str]) -> str:
    """The main metric of each arm, in a sentence."""
    shown = [f"{name} {words.value(main.mean(arm).mean, main.metric)}" for arm, name in names.items()]
    return f"{capital(main.metric.title)} ({words.unit(main.metric)}): {', '.join(shown)}."


def changed(main: Measured, one: str, other: str) -> float:
    """How far one arm is above another; 0 where it is not."""
    found = main.difference(one, other).mean if main.has(one, other) else 0.0
    return found if found > 0 else 0.0
