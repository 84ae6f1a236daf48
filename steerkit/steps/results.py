"""Tables and report of a run, made of its generations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from steerkit.code.source_files import source_digest
from steerkit.conditions import Experiment, VectorKey
from steerkit.data.trace import Prompt
from steerkit.judging.metrics import FILE as METRICS
from steerkit.judging.metrics import write_metrics
from steerkit.provenance import settings_of, version_of
from steerkit.stats.intervals import METHOD
from steerkit.steps.generations import FILE, planner_for
from steerkit.steps.perplexity import likelihoods_of
from steerkit.steps.scoring import score, scoring_inputs
from steerkit.store.files import digest, read_whole_lines
from steerkit.tables import COMPARISON_COLUMNS, RESULT_COLUMNS, comparison_rows, result_rows, write_csv
from steerkit.vectors.steering_vector import SteeringVector

if TYPE_CHECKING:
    from steerkit.run import SteeringTrainer


def results(
    trainer: SteeringTrainer,
    prompts: Sequence[Prompt],
    vectors: Mapping[VectorKey, SteeringVector],
    chosen: float,
    experiments: Sequence[Experiment],
) -> None:
    """``results.csv``, ``comparisons.csv``, and ``metrics.json``: what their metrics are."""
    args, planner = trainer.args, planner_for(trainer, vectors)

    def make(key: str) -> tuple[None, list[str]]:
        rows = read_whole_lines(trainer.folder / FILE)
        scores = score(trainer, rows, prompts, likelihoods_of(trainer))
        found = result_rows(experiments, scores, planner, chosen)
        write_csv(trainer.folder / "results.csv", RESULT_COLUMNS, found)
        compared = comparison_rows(experiments, scores, planner, chosen)
        write_csv(trainer.folder / "comparisons.csv", COMPARISON_COLUMNS, compared)
        write_metrics(trainer.folder.path, scores.metrics)
        return None, ["results.csv", "comparisons.csv", METRICS]

    inputs = [
        trainer.keys["choose"],
        trainer.keys["test"],
        trainer.keys["perplexity"],
        *scoring_inputs(trainer),
        [asdict(metric) for metric in trainer.metrics],
        args.confidence,
        METHOD,
        [[e.name, e.split, [c.id for c in e.conditions]] for e in experiments],
    ]
    trainer.stage("results", inputs, make, lambda: None)


def report(trainer: SteeringTrainer) -> None:
    """``figures/`` and ``report.html``."""
    from steerkit.report import write_report

    shown = [trainer.keys.get(stage, "") for stage in ("results", "lens", "projection", "agreement")]
    inputs = [*shown, settings_of(trainer), version_of("steerkit-hf"), _page()]
    trainer.stage("report", inputs, lambda key: (None, write_report(trainer.folder.path)), lambda: None, sealed=False)


def _page() -> str:
    """Digest of what makes the page: it is cheap to build again."""
    files = sorted((Path(__file__).parent.parent / "report").rglob("*"))
    return digest([source_digest(path) for path in files if path.suffix in (".py", ".j2", ".css")])
