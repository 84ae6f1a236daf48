"""What the experiments on adapters say alike."""

from __future__ import annotations

from steerkit.context import Run
from steerkit.training.settings import Training

FEW = 10  # training seeds below which an interval over them is a rough one


def few_seeds(run: Run) -> tuple[str, ...]:
    """A caution where intervals rest on few training seeds."""
    seeds = len(run.use(Training).training_seeds)
    if seeds == 1:
        return ("One training seed: intervals cover texts alone, and nothing is said about another training.",)
    if seeds < FEW:
        return (
            f"Few training seeds: intervals rest on {seeds}. With fewer than {FEW}, an interval over them is wide, and "
            "can miss the true value more often than its level says (docs/statistics.md).",
        )
    return ()
