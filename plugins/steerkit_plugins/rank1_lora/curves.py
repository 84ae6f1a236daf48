"""How trainings went: the loss step by step, and what held-out rows say before and after."""

from __future__ import annotations

from collections.abc import Mapping

from steerkit.findings import Figure, Lines, Series
from steerkit.steps.trained_models import TrainedModel
from steerkit_plugins.rank1_lora.recovered import BASE, FULL, Losses


def training_curves(
    trained: Mapping[str, TrainedModel], losses: Losses, called: Mapping[str, str]
) -> tuple[Figure, ...]:
    """A panel an arm: a line a training seed, and the held-out loss of base and full fine-tuning as levels."""
    panels = []
    by_arm: dict[str, list[TrainedModel]] = {}
    for told in trained.values():
        if told.log:
            by_arm.setdefault(told.arm, []).append(told)
    for arm, own in by_arm.items():
        series = [
            Series(
                name=f"training seed {told.seed}",
                x=tuple(float(row["step"]) for row in told.log),
                y=tuple(float(row["loss"]) for row in told.log),
                look=number,
            )
            for number, told in enumerate(own)
        ]
        last = max(row["step"] for told in own for row in told.log)
        after = losses.mean(arm)
        series.append(
            Series(
                name="held-out rows, before and after",
                x=(0.0, float(last)),
                y=(losses.mean(BASE).mean, after.mean),
                low=(losses.mean(BASE).low, after.low),
                high=(losses.mean(BASE).high, after.high),
                look=len(own),
                line=False,
                hollow=True,
            )
        )
        level = losses.mean(FULL).mean if FULL in losses.values and arm != FULL else None
        panels.append(
            Lines(
                title=called.get(arm, arm),
                xlabel="step",
                ylabel="loss, nats a token",
                series=tuple(series),
                level=level,
            )
        )
    if not panels:
        return ()
    return (
        Figure(
            name="training-curves",
            title="Training",
            caption="Loss of each step's batch, and of held-out rows before and after training. Dashed: held-out loss "
            "of full fine-tuning.",
            panels=tuple(panels),
        ),
    )
