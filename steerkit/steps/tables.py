"""The tables of a run: ``results.csv``, ``comparisons.csv``, and ``metrics.json`` that says what their metrics are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from steerkit.context import Run
from steerkit.graph import FINDINGS
from steerkit.judging.metrics import FILE as METRICS
from steerkit.judging.metrics import write_metrics
from steerkit.parts import Step
from steerkit.steps.findings import asks_texts
from steerkit.steps.results import DIFFERENCES, FIGURES, Found, Row
from steerkit.steps.scores import metrics_of_run
from steerkit.store.csv_tables import write_csv


class Tables(Step):
    """One table of conditions and one of comparisons, of all experiments."""

    def needs(self, run: Run) -> Sequence[str]:
        return tuple(f"{FINDINGS}.{name}" for name in run.experiments)

    def depends(self, run: Run, *found: Found) -> Any:
        return (
            [asdict(metric) for metric in metrics_of_run(run)] if any(map(asks_texts, run.experiments.values())) else []
        )

    def make(self, run: Run, *found: Found) -> tuple[list[Row], list[Row]]:
        rows = [row for each in found for row in each.rows]
        return rows, [row for each in found for row in each.comparisons]

    def save(self, run: Run, value: tuple[list[Row], list[Row]]) -> Sequence[str]:
        rows, compared = value
        labels = labels_in(rows)
        write_csv(run.folder / "results.csv", ("experiment", "split", *labels, *FIGURES), rows)
        others = [name for name in columns_in(compared) if name.startswith("vs_") and name != "vs_condition"]
        columns = ("experiment", "split", *labels, "added_norm", "metric", *others, *DIFFERENCES)
        write_csv(run.folder / "comparisons.csv", columns, compared)
        seen = {row["metric"] for row in rows}
        metrics = metrics_of_run(run) if rows else ()
        write_metrics(run.folder.path, [metric for metric in metrics if metric.name in seen])
        return ["results.csv", "comparisons.csv", METRICS]

    def load(self, run: Run) -> None:
        return None  # the report reads the files


def columns_in(rows: Iterable[Row]) -> list[str]:
    """Names of all columns, in the order in which rows first have them."""
    return list(dict.fromkeys(name for row in rows for name in row))


def labels_in(rows: Iterable[Row]) -> list[str]:
    """Names of the conditions' labels."""
    own = {"experiment", "split", "condition", *FIGURES}
    return [name for name in columns_in(rows) if name not in own]
