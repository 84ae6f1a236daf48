"""A finished run, read back from its folder: everything that the report is made of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.errors import SteerkitError, readable
from steerkit.judging.metrics import FILE as METRICS
from steerkit.judging.metrics import JUDGED, RunMetric, read_metrics
from steerkit.methods import method_names
from steerkit.store.bounded_yaml import load
from steerkit.store.files import digest, read_whole_lines

if TYPE_CHECKING:
    from steerkit.conditions import VectorKey
    from steerkit.vectors.steering_vector import SteeringVector

Row = dict[str, Any]
TABLES = {"results.csv": ("n_apart", "degenerate"), "comparisons.csv": ("n_apart", "degenerate", "p", "p_holm")}
"""The tables of a run, and the columns that tell one of this version."""


@dataclass(frozen=True)
class Run:
    """The files of a run folder. Values are as in the tables: shares in [0, 1], others in their metric's unit.

    Attributes:
        recipe: `recipe.yaml` as it was run.
        results: rows of `results.csv`: one a condition and metric.
        comparisons: rows of `comparisons.csv`: paired differences on the test prompts.
        metrics: what the tables' metrics are.
    """

    folder: Path
    recipe: dict[str, Any]
    results: list[Row]
    comparisons: list[Row]
    metrics: tuple[RunMetric, ...]

    @classmethod
    def read(cls, folder: Path) -> Run:
        """Read a run folder.

        Raises:
            SteerkitError: it lacks `recipe.yaml`, a table or `metrics.json`: the run is not finished.
        """
        for name in ("recipe.yaml", "results.csv", "comparisons.csv", METRICS):
            if not (folder / name).is_file():
                raise SteerkitError(
                    f"{folder / name}: is not there: no finished run, or one of another version of steerkit; run the "
                    "recipe to its end in this folder first"
                )
        recipe = load(folder / "recipe.yaml")
        if not isinstance(recipe, dict):
            raise SteerkitError(f"{folder / 'recipe.yaml'}: is no recipe: a mapping of keys to values")
        results, comparisons = (_table(folder / name, columns) for name, columns in TABLES.items())
        with readable(folder / METRICS):
            metrics = read_metrics(folder)
        return cls(folder, recipe, results, comparisons, metrics)

    def metric(self, name: str) -> RunMetric:
        """A metric of the tables by its name. Raises: SteerkitError when `metrics.json` lacks it."""
        found = next((metric for metric in self.metrics if metric.name == name), None)
        if found is None:
            raise SteerkitError(f"{self.folder / METRICS}: lacks {name!r}, which the tables have: not of one run")
        return found

    @cached_property
    def shown(self) -> list[RunMetric]:
        """The metrics that figures have a panel of, and tables a column: the score judge's, and judged sentences."""
        return [metric for metric in self.metrics if metric.shown]

    @cached_property
    def score(self) -> RunMetric:
        """The score judge's metric that claims are made about; judged sentences where it has none of its own."""
        return next((metric for metric in self.metrics if metric.main), self.metric(JUDGED))

    def uncollapsed(self, metric: RunMetric) -> RunMetric | None:
        """The same with collapsed texts counted as unsteered ones; None where there is no such metric."""
        return next((other for other in self.metrics if other.plain == metric.name), None)

    def json(self, name: str) -> dict[str, Any]:
        """A JSON file of the folder; empty when it isn't there."""
        path = self.folder / name
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}

    def jsonl(self, name: str) -> list[Row]:
        """Rows of a jsonl file of the folder; none when it isn't there."""
        return read_whole_lines(self.folder / name)

    def csv(self, name: str) -> list[Row]:
        """Rows of a csv table of the folder; none when it isn't there."""
        from steerkit.tables import read_csv

        path = self.folder / name
        return read_csv(path) if path.is_file() else []

    @cached_property
    def fitter(self) -> str:
        """Name of the fitted vector's method."""
        return str(self.recipe["fitter"]["name"])

    @cached_property
    def baselines(self) -> dict[str, str]:
        """Method of each steerer among the baselines → digest of its settings."""
        settings, labels = self.recipe.get("baselines") or [], self.recipe.get("baseline_labels") or []
        return dict(zip(method_names(self.fitter, settings, labels)[0], map(digest, settings), strict=True))

    @cached_property
    def label(self) -> str:
        return str(self.recipe["fitter"]["label"])

    @cached_property
    def window(self) -> tuple[int, int]:
        """Offsets of the fitted vector's window, inclusive."""
        first, last = self.recipe["fitter"]["window"]
        return int(first), int(last)

    @cached_property
    def layer(self) -> int:
        """0-based block that is steered."""
        return int(self.recipe["layer"])

    @cached_property
    def strength(self) -> float:
        """The strength that claims are made at, chosen on other prompts."""
        chosen = self.json("choice.json").get("strength")
        found = [row["strength"] for row in self.results if row["chosen"]] if chosen is None else [chosen]
        return float(found[0]) if found else float("nan")

    @cached_property
    def level(self) -> str:
        """Level of the intervals, e.g. ``95 %``."""
        return f"{100 * float(self.recipe.get('confidence', 0.95)):g} %"

    @cached_property
    def alpha(self) -> float:
        """What p lies below where a difference is told: 1 minus the intervals' level."""
        return round(1 - float(self.recipe.get("confidence", 0.95)), 12)

    @cached_property
    def same_model(self) -> bool:
        """Whether base and reasoning model are one model."""
        return bool(self.recipe.get("made_with", {}).get("reasoning", {}).get("same_model"))

    def vector_key(self, source: str) -> VectorKey:
        """Key of the vector that a source's activations gave."""
        from steerkit.conditions import VectorKey

        return VectorKey(source=source, label=self.label, window=self.window)

    def vector(self, source: str) -> SteeringVector | None:
        """That vector; None when its file is not in the folder."""
        from steerkit.vectors.steering_vector import SteeringVector

        path = self.folder / "vectors" / self.vector_key(source).file
        return SteeringVector.load(path) if path.is_file() else None

    def fitted(self, **more: Any) -> list[Row]:
        """Test rows of results.csv of the fitted vector."""
        return select(self.results, split="test", method=self.fitter, **more)

    def main(self, metric: str) -> list[Row]:
        """Test rows of the condition that claims are about: once for each experiment it is part of."""
        return self.fitted(
            source="base", target="reasoning", layer=self.layer, pool="own", strength=self.strength, metric=metric
        )

    def unsteered(self, target: str, metric: str) -> Row | None:
        """The unsteered model's test row."""
        found = select(self.results, split="test", method="none", target=target, metric=metric)
        return found[0] if found else None

    def has(self, experiment: str) -> bool:
        return bool(select(self.results, experiment=experiment, split="test"))


def _table(path: Path, needed: Sequence[str]) -> list[Row]:
    from steerkit.tables import read_csv, read_header

    header = read_header(path)
    if not header:
        raise SteerkitError(f"{path}: is empty; run the recipe into this folder again, which remakes the tables")
    lacking = [name for name in needed if name not in header]
    if lacking:
        raise SteerkitError(
            f"{path}: has no column {', '.join(lacking)}: another version of steerkit made it; run the recipe into "
            "this folder again, which remakes the tables of the generations that are there"
        )
    return read_csv(path)


def select(rows: Sequence[Row], **wanted: Any) -> list[Row]:
    """Rows whose cells are as wanted."""
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]
