"""A finished run, read back from its folder: everything that the report is made of."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from steerkit.errors import InputError, Problem, SteerkitError, readable
from steerkit.findings import Figure, Findings
from steerkit.judging.metrics import FILE as METRICS
from steerkit.judging.metrics import RunMetric, read_metrics
from steerkit.report.rows import COMPARISONS, RESULTS, Rows, read_rows
from steerkit.report.sound import problems_of
from steerkit.store.files import read_whole_lines
from steerkit.store.folder import read_recipe
from steerkit.store.strict_json import loads

FINDINGS = "findings"
AGAIN = "run the recipe to its end in this folder first"
GIVE = "give the folder that `recipe run` printed, and run the recipe to its end first"
FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Part:
    """What one experiment found.

    Attributes:
        name: the experiment's name in the recipe.
        asked: whether the recipe names it; others (steps that found something) describe how the run was set up.
    """

    name: str
    findings: Findings
    asked: bool


@dataclass(frozen=True)
class Run:
    """The files of a run folder.

    Attributes:
        recipe: ``recipe.yaml`` as it was run.
        parts: findings: those of the experiments in the recipe's order, then the others.
        results: rows of ``results.csv``: one for each experiment, condition and metric.
        comparisons: rows of ``comparisons.csv``: paired differences.
        metrics: what the tables' metrics are.
    """

    folder: Path
    recipe: dict[str, Any]
    parts: tuple[Part, ...]
    results: Rows
    comparisons: Rows
    metrics: tuple[RunMetric, ...]

    @classmethod
    def read(cls, folder: Path) -> Run:
        """Read a run folder.

        Raises:
            SteerkitError: the run is not finished, was made by another version of steerkit, or a file is damaged.
        """
        recipe = read_recipe(folder)
        parts = tuple(_parts(folder, recipe))
        _check(folder, parts)
        results, comparisons = (read_rows(folder / name) for name in (RESULTS, COMPARISONS))
        return cls(folder, recipe, parts, results, comparisons, _metrics(folder, results))

    @property
    def name(self) -> str:
        return str(self.recipe.get("name") or self.folder.name)

    @property
    def about(self) -> str:
        """The question that the run was made for."""
        return str(self.recipe.get("about") or "")

    @cached_property
    def lead(self) -> Part | None:
        """The experiment that opens the page: the first that has a finding."""
        return next((part for part in self.parts if part.findings.finding), None)

    @property
    def qualifiers(self) -> list[str]:
        """What other experiments have to say beside the first finding."""
        return [part.findings.qualifier for part in self.parts if part.findings.qualifier and part is not self.lead]

    @property
    def confidence(self) -> float:
        """Level of the intervals, in (0, 1)."""
        return float(self.recipe.get("confidence") or 0.95)

    @property
    def level(self) -> str:
        """Level of the intervals in words, e.g. ``95 %``."""
        return f"{100 * self.confidence:g} %"

    @property
    def made_with(self) -> dict[str, Any]:
        """What the run was made with: models, versions, plugins, seed."""
        return dict(self.recipe.get("made_with") or {})

    @property
    def tabulated(self) -> list[RunMetric]:
        """The metrics that tables have a column of: all but the variants of another one (`RunMetric.plain`)."""
        return [metric for metric in self.metrics if not metric.plain]

    def metric(self, name: str) -> RunMetric:
        """A metric of the tables by its name. Raises: SteerkitError where ``metrics.json`` lacks it."""
        found = next((metric for metric in self.metrics if metric.name == name), None)
        if found is None:
            raise SteerkitError(f"{self.folder / METRICS}: lacks {name!r}, which the tables have: not of one run")
        return found

    def json(self, name: str) -> dict[str, Any]:
        """A JSON object of the folder; empty when the file isn't there."""
        path = self.folder / name
        return _object(path) if path.is_file() else {}

    def jsonl(self, name: str) -> list[dict[str, Any]]:
        """Rows of a jsonl file of the folder; none when it isn't there."""
        return read_whole_lines(self.folder / name)


def experiment_names(recipe: dict[str, Any]) -> list[str]:
    """Names of a recipe's experiments, in its order."""
    listed = recipe.get("experiments") or []
    return [str(one["name"] if isinstance(one, dict) else one) for one in listed]


def _parts(folder: Path, recipe: dict[str, Any]) -> Iterator[Part]:
    asked = experiment_names(recipe)
    files = {path.stem: path for path in sorted((folder / FINDINGS).glob("*.json"))}
    lacking = [name for name in asked if name not in files]
    if lacking:
        listed = ", ".join(f"{FINDINGS}/{name}.json" for name in lacking)
        raise SteerkitError(
            f"{folder}: {listed}: not there: the run is not finished, or was made by another version of steerkit; "
            f"{AGAIN}"
        )
    if not files and not (folder / RESULTS).is_file():
        raise SteerkitError(f"{folder}: no finished run there (no {FINDINGS}/*.json, no {RESULTS}); {GIVE}")
    for name in dict.fromkeys([*asked, *files]):
        yield Part(name, _findings(files[name]), name in asked)


def _findings(path: Path) -> Findings:
    value = _object(path)
    if "findings" not in value:
        raise SteerkitError(f"{path}: has no findings; {AGAIN}")
    try:
        return Findings.from_json(value["findings"])
    except ValidationError as error:
        what = [Problem(_place(one["loc"]), one["msg"]) for one in error.errors(include_url=False, include_input=False)]
        raise InputError(f"{path}: not what this version of steerkit writes; {AGAIN}", what[:20]) from error


def _place(loc: Sequence[int | str]) -> str:
    return ".".join(map(str, loc)) or FINDINGS


def _check(folder: Path, parts: Sequence[Part]) -> None:
    """Figures whose data don't fit together, and names that can't be names of files, all at once."""
    problems, owners = [], dict[str, str]()
    for part in parts:
        for figure in part.findings.figures:
            where = f"{folder / FINDINGS / part.name}.json: figure {figure.name!r}"
            problems += [Problem(where, what) for what in (*_name_problems(figure, owners), *problems_of(figure))]
            owners.setdefault(figure.name, part.name)
    if problems:
        raise InputError("findings that can't be drawn", problems)


def _name_problems(figure: Figure, owners: dict[str, str]) -> Iterator[str]:
    if not FILE_NAME.fullmatch(figure.name):
        yield "the name is also the file's: use up to 100 letters, digits, and . _ -"
    if figure.name in owners:
        yield f"{owners[figure.name]} has a figure of that name too: give one of them another name"


def _metrics(folder: Path, results: Rows) -> tuple[RunMetric, ...]:
    path = folder / METRICS
    if not path.is_file():
        if not results.rows:
            return ()
        raise SteerkitError(f"{path}: is not there, and {RESULTS} needs it; {AGAIN}")
    with readable(path):
        return read_metrics(folder)


def _object(path: Path) -> dict[str, Any]:
    try:
        value = loads(path.read_bytes())
    except ValueError as error:
        raise SteerkitError(f"{path}: is damaged: not JSON ({error}); {AGAIN}") from error
    if not isinstance(value, dict):
        raise SteerkitError(f"{path}: is damaged: not a JSON object; {AGAIN}")
    return value
