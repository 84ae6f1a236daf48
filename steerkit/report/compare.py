"""Two runs side by side: what each found, what differs in their settings, and the conditions that both ran."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from steerkit.findings import Claim, Figure, Table
from steerkit.judging.metrics import RunMetric
from steerkit.report import words
from steerkit.report.cautions import cautions, heads
from steerkit.report.figures import NARROW, Image, image_of
from steerkit.report.page import Picture, environment, picture, write_html
from steerkit.report.rows import Row
from steerkit.report.run import Run
from steerkit.report.screen import tally
from steerkit.report.sound import columns_of
from steerkit.report.tabulate import estimate, heading

TEMPLATE = "compare.html.j2"
IGNORED = ("made_with", "output_dir", "name", "about")
KINDS = {"claim": "claim", "beside": "not claimed"}
Key = tuple[str, ...]


@dataclass(frozen=True)
class Side:
    """One of the two runs."""

    letter: str
    run: Run

    @property
    def finding(self) -> str:
        return self.run.lead.findings.finding if self.run.lead else ""

    @property
    def tally(self) -> str:
        return tally(claim for part in self.run.parts for claim in part.findings.claims)

    @property
    def cautions(self) -> list[str]:
        return cautions(self.run)

    @property
    def heads(self) -> list[str]:
        return heads(self.cautions)


def write_page(first: Run, second: Run, out: Path) -> None:
    """Write the page."""
    runs = (first, second)
    html = (
        environment()
        .get_template(TEMPLATE)
        .render(
            sides=[Side(letter, run) for letter, run in zip("AB", runs, strict=True)],
            findings=list(_findings(runs)),
            claims=list(claim_tables(runs)),
            settings=setting_table(runs),
            conditions=condition_table(runs),
            level=first.level,
            same_prompts=_test_prompts(first) == _test_prompts(second),
            figures=list(_figures(runs)),
        )
    )
    write_html(out, html)


def _names(runs: Sequence[Run]) -> list[str]:
    """Experiments of either run."""
    return list(dict.fromkeys(part.name for run in runs for part in run.parts))


def _findings(runs: Sequence[Run]) -> Iterator[tuple[str, list[str]]]:
    """Title and both sentences of each experiment that states a finding; not of the one that opens both runs' pages."""
    leads = {run.lead.name if run.lead else "" for run in runs}
    for name in _names(runs):
        if leads == {name}:
            continue
        own = [part.findings for run in runs for part in run.parts if part.name == name]
        if any(findings.finding for findings in own):
            by_run = [{part.name: part.findings for part in run.parts} for run in runs]
            yield own[0].title, [parts[name].finding if name in parts else "" for parts in by_run]


def claim_tables(runs: Sequence[Run]) -> Iterator[Table]:
    """A table for each experiment: a row for each claim or comparison of either run."""
    for name in _names(runs):
        title = next(part.findings.title for run in runs for part in run.parts if part.name == name)
        by_text: list[dict[tuple[str, str], Claim]] = [
            {
                (claim.kind, claim.text): claim
                for part in run.parts
                if part.name == name
                for claim in part.findings.claims
            }
            for run in runs
        ]
        keys = sorted(dict.fromkeys(key for own in by_text for key in own), key=lambda key: key[0] != "claim")
        rows = tuple((text, KINDS[kind], *(_told(own.get((kind, text))) for own in by_text)) for kind, text in keys)
        if rows:
            yield Table(headings=("claim", "kind", "A", "B"), rows=rows, left=4, title=title)


def _told(claim: Claim | None) -> str:
    """Verdict, difference and interval in one cell."""
    if claim is None:
        return words.NOTHING
    figures = " ".join(part for part in (claim.difference, claim.interval) if part)
    return ": ".join(part for part in (claim.verdict, figures) if part) or "stated, without a difference"


def setting_table(runs: Sequence[Run]) -> Table:
    """Settings whose values differ."""
    flat = [dict(_flat({k: v for k, v in run.recipe.items() if k not in IGNORED})) for run in runs]
    names = dict.fromkeys(name for own in flat for name in own)
    rows = ((name, *(_shown(own.get(name)) for own in flat)) for name in names)
    return Table(headings=("setting", "A", "B"), rows=tuple(row for row in rows if row[1] != row[2]), left=3)


def _flat(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    """Dotted names and values; entries of a list that have a name are called by it."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}".lstrip("."))
    elif isinstance(value, list) and any(map(_name, value)):
        yield name, [_name(one) or one for one in value]
        for one in filter(_name, value):
            yield from _flat({k: v for k, v in one.items() if k != "name"} or None, f"{name}.{_name(one)}")
    else:
        yield name, value


def _name(value: object) -> str:
    return str(value["name"]) if isinstance(value, dict) and "name" in value else ""


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or words.NOTHING
    return words.NOTHING if value is None else str(value)


def condition_table(runs: Sequence[Run]) -> Table:
    """Means of the conditions and metrics that both runs have, and the difference of the two.

    Conditions are matched by the label columns that both runs have. Those that only the other columns tell apart are
    left out, and counted in the note.
    """
    shared = [name for name in runs[0].results.labels if name in runs[1].results.labels]
    metrics = _alike(*runs)
    by_key, unclear = zip(*(_by_key(run, shared, metrics) for run in runs), strict=True)
    rows, found = [], []
    for key, ours in by_key[0].items():
        theirs = by_key[1].get(key)
        if theirs is not None:
            metric = metrics[ours["metric"]]
            delta, low, high = difference(ours, theirs, runs[0].confidence)
            gap = f"{words.value(delta, metric, signed=True)} {words.interval(low, high, metric, signed=True)}"
            rows.append(
                (
                    *key[:-1],
                    f"{metric.title or metric.name}, {words.unit(metric)}",
                    estimate(ours, metric),
                    estimate(theirs, metric),
                    gap,
                )
            )
    kept = [i for i, name in enumerate(("experiment", *shared)) if i == 0 or len({row[i] for row in rows}) > 1]
    width = len(shared) + 1
    for row in rows:
        found.append((*(row[i] or words.NOTHING for i in kept), *row[width:]))
    names = [("experiment", *map(heading, shared))[i] for i in kept]
    return Table(
        headings=(*names, "metric", "A", "B", "B − A"),
        rows=tuple(found),
        left=len(names) + 1,
        note=_left_out(sum(unclear)),
    )


def _left_out(n: int) -> str:
    if not n:
        return ""
    return f"{n:,} rows are left out: they are told apart by columns that only one of the runs has."


def _alike(first: Run, second: Run) -> dict[str, RunMetric]:
    """Metrics whose values can be subtracted: both runs have them in the same unit and bounds."""
    theirs = {metric.name: metric for metric in second.metrics}
    return {
        metric.name: metric
        for metric in first.tabulated
        if metric.name in theirs
        and (metric.unit, metric.bounds) == (theirs[metric.name].unit, theirs[metric.name].bounds)
    }


def _by_key(run: Run, shared: Sequence[str], metrics: Mapping[str, RunMetric]) -> tuple[dict[Key, Row], int]:
    """Test rows by experiment, shared labels and metric; and how many rows share a key with another one."""
    groups: dict[Key, list[Row]] = {}
    for row in run.results.rows:
        if row["split"] == "test" and row["metric"] in metrics:
            key = (row["experiment"], *(row[name] for name in shared), row["metric"])
            groups.setdefault(key, []).append(row)
    return {key: rows[0] for key, rows in groups.items() if len(rows) == 1}, sum(
        len(r) for r in groups.values() if len(r) > 1
    )


def difference(ours: Row, theirs: Row, confidence: float) -> tuple[float, float, float]:
    """B − A of two rows of results.csv with Welch's interval; NaN where a side has no mean, or under two prompts."""
    from scipy.stats import t

    sides = [(row["mean"], row["sd"], row["n_prompts"]) for row in (theirs, ours)]
    if any(words.missing(value) for side in sides for value in side) or min(n for _, _, n in sides) < 2:
        return (math.nan,) * 3
    delta = sides[0][0] - sides[1][0]
    squared = [sd**2 / n for _, sd, n in sides]
    if not sum(squared):
        return delta, delta, delta
    freedom = sum(squared) ** 2 / sum(v**2 / (n - 1) for v, (_, _, n) in zip(squared, sides, strict=True))
    half = float(t.ppf((1 + confidence) / 2, freedom)) * math.sqrt(sum(squared))
    return delta, delta - half, delta + half


def _test_prompts(run: Run) -> list[object]:
    return [(row["id"], row["prompt"]) for row in run.jsonl("prompts.jsonl") if row.get("split") == "test"]


def _figures(runs: Sequence[Run]) -> Iterator[tuple[str, list[Picture | None]]]:
    """Figures of either run by name, the picture of each."""
    numbers = count(1)
    by_name = [{figure.name: figure for part in run.parts for figure in part.findings.figures} for run in runs]
    for name in dict.fromkeys(name for own in by_name for name in own):
        own = [figures.get(name) for figures in by_name]
        title = next(figure.title for figure in own if figure)
        yield title, [picture(next(numbers), figure, _column(figure)) if figure else None for figure in own]


def _column(figure: Figure) -> Image:
    """A figure for one of two columns: panels below each other."""
    image = image_of(figure)
    return Image(image.narrow, image.narrow, NARROW) if columns_of(figure) > 1 else image
