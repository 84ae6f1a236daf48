"""Tables and report of a run, made of its generations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from steerkit.conditions import Experiment, VectorKey
from steerkit.files import read_whole_lines
from steerkit.provenance import version_of
from steerkit.stages.generations import FILE, judge_inputs, planner_for, score_generations
from steerkit.tables import COMPARISON_COLUMNS, RESULT_COLUMNS, comparison_rows, result_rows, write_csv
from steerkit.vector import SteeringVector

if TYPE_CHECKING:
    from steerkit.trainer import SteeringTrainer


def results(
    trainer: SteeringTrainer,
    vectors: Mapping[VectorKey, SteeringVector],
    chosen: float,
    experiments: Sequence[Experiment],
) -> None:
    """``results.csv`` and ``comparisons.csv``."""
    args, planner = trainer.args, planner_for(trainer, vectors)

    def make(key: str) -> tuple[None, list[str]]:
        rows = read_whole_lines(trainer.folder / FILE)
        scores = score_generations(trainer, rows, planner.label)
        found = result_rows(experiments, scores, planner, chosen)
        write_csv(trainer.folder / "results.csv", RESULT_COLUMNS, found)
        compared = comparison_rows(experiments, scores, planner, chosen)
        write_csv(trainer.folder / "comparisons.csv", COMPARISON_COLUMNS, compared)
        return None, ["results.csv", "comparisons.csv"]

    inputs = [
        trainer.keys["choose"], trainer.keys["test"], *judge_inputs(trainer), args.confidence, args.resamples,
    ]  # fmt: skip
    trainer.stage("results", inputs, make, lambda: None)


def report(trainer: SteeringTrainer) -> None:
    """``figures/`` and ``report.html``."""
    from steerkit.report import write_report

    inputs = [trainer.keys["results"], trainer.about, version_of("steerkit-hf")]
    trainer.stage("report", inputs, lambda key: (None, write_report(trainer.folder.path)), lambda: None, sealed=False)
