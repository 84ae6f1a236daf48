"""An experiment as a step: its conditions are there and scored, so that it can say what was found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from steerkit import registry
from steerkit.context import Run
from steerkit.data.generated import Generation, Score
from steerkit.errors import SteerkitError
from steerkit.findings import Findings
from steerkit.judging.scored import Scored
from steerkit.parts import Experiment, Step
from steerkit.settings import Fitting, Intervals
from steerkit.stats.intervals import METHOD
from steerkit.steps.asked import asked_of
from steerkit.steps.generations import added_norm, breaks
from steerkit.steps.results import Found, Results, seen
from steerkit.steps.scores import metrics_of_run
from steerkit.steps.vectors import Vectors
from steerkit.store.csv_tables import write_csv
from steerkit.store.files import write_json, write_jsonl


class RunExperiment(Step):
    """``findings/NAME.json``: what an experiment found, and its rows of the tables."""

    uses = (Intervals,)

    def _experiment(self, run: Run) -> tuple[Run, Experiment]:
        experiment = run.experiment(self.of)
        return run.of(experiment, self.of), experiment

    def needs(self, run: Run) -> Sequence[str]:
        own, experiment = self._experiment(run)
        split = experiment.split
        texts = [f"generations.{split}", f"scores.{split}", "vectors"] if asks_texts(experiment) else []
        return (*texts, *experiment.needs(own), *experiment.afterwards(own))

    def depends(self, run: Run, *needs: Any) -> Any:
        return METHOD

    def make(self, run: Run, *needs: Any) -> Found:
        own, experiment = self._experiment(run)
        given = [seen(need) for need in (needs[3:] if asks_texts(experiment) else needs)]
        results = None
        if asks_texts(experiment):
            results = self._results(run, own, experiment, needs[:3], given)
        with run.models.only(f"experiment {self.of}", experiment.models(own)):
            shown = replace(own, title=run.title)  # progress and judges speak of the step
            found = experiment.findings(shown, results, *given)
        if not isinstance(found, Findings):
            raise SteerkitError(f"experiment {self.of}: findings() gave {found!r:.60}; return a Findings")
        if results is None:
            return Found(found, [], [])
        found = replace(found, cautions=(*broken_texts(results), *found.cautions))
        if experiment.rows is None:
            return Found(found, [], [])
        rows = [{**row, "chosen": False} for row in results.rows]
        compared = [{**row, "chosen": False} for row in results.comparisons]
        by_id = {condition.id: condition for condition in results.conditions}
        first = given[: len(experiment.needs(own))]
        marked = {name: experiment.chosen(condition, found, *first) for name, condition in by_id.items()}
        for row in (*rows, *compared):
            row["chosen"] = marked[row["condition"]]
        return Found(found, rows, compared)

    def _results(
        self, run: Run, own: Run, experiment: Experiment, texts: Sequence[Any], needs: Sequence[Any]
    ) -> Results:
        generations: list[Generation]
        scores: list[Score]
        vectors: Vectors
        generations, scores, vectors = texts
        conditions, pairs = asked_of(run, self.of, experiment, *needs[: len(experiment.needs(own))])
        wanted = {condition.id for condition in conditions}
        kept = [row for row in generations if row.condition in wanted]
        broken = {row.condition for row in kept if row.broken}
        return Results(
            name=experiment.rows or self.of,
            split=experiment.split,
            conditions=conditions,
            pairs=pairs,
            scored=Scored(scores, metrics_of_run(run), broken),
            generations=kept,
            norms={condition.id: added_norm(condition, vectors) for condition in conditions},
            scale=registry.build("fitters", run.peek(Fitting).fitter).config.scale,
            confidence=run.use(Intervals).confidence,
        )

    def save(self, run: Run, value: Found) -> Sequence[str]:
        for name in value.findings.data:
            if Path(name).name != name or Path(name).suffix not in (".csv", ".jsonl"):
                raise SteerkitError(
                    f"experiment {self.of}: the data file {name!r} must be a file's name that ends in .csv or .jsonl"
                )
        for name, rows in value.findings.data.items():
            write_data(run.folder / name, rows)
        tables = {"rows": _plain(value.rows), "comparisons": _plain(value.comparisons)}
        write_json(run.folder / self._file, {"findings": value.findings.to_json(), **tables})
        return [self._file, *value.findings.data]

    def load(self, run: Run) -> Found:
        value = super().load(run)
        return Found(Findings.from_json(value["findings"]), value["rows"], value["comparisons"])

    @property
    def _file(self) -> str:
        return f"findings/{self.of}.json"


def broken_texts(results: Results) -> list[str]:
    """A caution for each condition with texts that broke off."""
    return [
        f"Broken texts: {line}. Figures of this condition are left out, also those of its other texts."
        for line in breaks(results.generations)
    ]


def write_data(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows of `Findings.data` as csv or jsonl."""
    if path.suffix == ".csv":
        write_csv(path, list(dict.fromkeys(name for row in rows for name in row)), rows)
    else:
        write_jsonl(path, map(dict, rows))


def asks_texts(experiment: Experiment) -> bool:
    """Whether an experiment has texts generated."""
    return type(experiment).conditions is not Experiment.conditions


def _plain(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """JSON has no NaN."""
    return [{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for row in rows]
