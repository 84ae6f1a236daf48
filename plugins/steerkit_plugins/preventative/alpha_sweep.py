"""How strong must the vector be in training? The whole curve, and what it does to the training loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from steerkit.context import Run
from steerkit.findings import Figure, Findings, Lines, Series
from steerkit.report import words
from steerkit.steps.compose import panel
from steerkit.steps.results import Results
from steerkit.training.arms import Arm
from steerkit_plugins.preventative.arms import NONE, ArmsOf, Strengths, TrainedConfig, steered_name
from steerkit_plugins.preventative.compared import TrainedTexts
from steerkit_plugins.preventative.texts import FIRST, Trained, losses
from steerkit_plugins.trained.measured import UNTRAINED, Measured, by_metric, table_of
from steerkit_plugins.trained.words import few_seeds, heading, told

XLABEL = "vector added in training, times its fitted length"


class AlphaSweepConfig(TrainedConfig):
    strengths: Strengths
    """Multipliers of the fitter's scale at which the vector is added in training."""


class AlphaSweep(TrainedTexts):
    """How strong must the vector be in training?"""

    Config = AlphaSweepConfig

    def arms(self, run: Run) -> Sequence[Arm]:
        of = ArmsOf(run, self.config)
        return [of.none(), *map(of.steered, self.config.strengths)]

    def findings(self, run: Run, results: Results, trained: Trained) -> Findings:
        found = by_metric(results)
        main = found[results.score.name]
        arms = {0.0: NONE} | {s: steered_name(s) for s in sorted(self.config.strengths)}
        names = {UNTRAINED: "not trained"} | {arm: f"vector × {words.short(s)}" for s, arm in arms.items()}
        begun = {s: [t.log for t in trained.values() if t.arm == arm] for s, arm in arms.items()}
        lines = [self._panel(measured, arms) for measured in found.values()]
        pairs = {
            f"{main.metric.title}, vector × {words.short(s)} in training minus none": (arm, NONE)
            for s, arm in arms.items()
            if s
        }
        return Findings(
            title="Strength in training",
            question="How strong must the vector be in training?",
            finding=told(main, names),
            claims=tuple(main.beside(pairs)),
            figures=(
                Figure(
                    name=self.name,
                    title="Strength in training",
                    caption="Models trained with the vector added at several strengths (0: none). At test nothing is "
                    f"added. Right: the loss of the first {FIRST} steps, with the vector on.",
                    heading=heading(run, results),
                    panels=(*lines, _loss({s: [_first(log) for log in logs if log] for s, logs in begun.items()})),
                ),
            ),
            tables=(table_of(found, names, losses(trained, self.arms(run), names)),),
            cautions=few_seeds(run),
            notes=self.remarks(),
        )

    def _panel(self, measured: Measured, arms: dict[float, str]) -> Lines:
        found, scale = {s: measured.mean(arm) for s, arm in arms.items()}, words.factor(measured.metric)
        line = Series(
            name="trained",
            x=tuple(found),
            y=tuple(scale * each.mean for each in found.values()),
            low=tuple(scale * each.low for each in found.values()),
            high=tuple(scale * each.high for each in found.values()),
        )
        return panel(measured.metric, XLABEL, [line])


def _first(log: Sequence[Mapping[str, Any]]) -> float:
    return mean(float(row["loss"]) for row in log[:FIRST])


def _loss(by_strength: dict[float, list[float]]) -> Lines:
    """The mean over seeds, and the smallest and largest one."""
    own = {s: values for s, values in by_strength.items() if values}
    line = Series(
        name="mean, least and most over seeds",
        x=tuple(own),
        y=tuple(mean(values) for values in own.values()),
        low=tuple(min(values) for values in own.values()),
        high=tuple(max(values) for values in own.values()),
    )
    return Lines(
        title="Training loss", xlabel=XLABEL, ylabel="nats a learned token", series=(line,), bounds=(0.0, None)
    )
