"""Tables of an experiment's rows in ``results.csv`` and ``comparisons.csv``, whatever their labels are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from steerkit.findings import Table
from steerkit.interfaces import Metric
from steerkit.report import words
from steerkit.report.rows import OTHER, Row
from steerkit.report.run import Run

MOST = 200
"""Rows of a table on the page."""


def condition_table(run: Run, experiment: str) -> Table | None:
    """The conditions of an experiment with the means of its metrics; None where it has none."""
    rows = run.results.of(experiment)
    labels = varied(rows, run.results.labels)
    there = {row["metric"] for row in rows}
    shown = [metric for metric in run.tabulated if metric.name in there]
    by_condition: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        key = tuple(row[name] for name in run.results.labels)
        by_condition.setdefault(key, {})[row["metric"]] = row
    if not by_condition or not shown:
        return None
    made = []
    for found in by_condition.values():
        first = next(iter(found.values()))
        names = (first[name] or words.NOTHING for name in labels)
        made.append((*names, *(estimate(found.get(m.name), m) for m in shown), words.number(first["n_prompts"])))
    headings = (*map(heading, labels), *(f"{m.title or m.name}, {words.unit(m)}" for m in shown), "prompts")
    return _capped(headings, made, len(labels), "Conditions", "results.csv", _constant(rows, run.results.labels))


def difference_table(run: Run, experiment: str) -> Table | None:
    """The paired differences of an experiment, each in its metric's unit; None where it has none."""
    rows = run.comparisons.of(experiment)
    labels, others = varied(rows, run.comparisons.labels), run.comparisons.other()
    made = []
    for row in rows:
        metric = run.metric(row["metric"])
        if not metric.plain:
            made.append(
                (*(row[name] or words.NOTHING for name in labels), _other(row, others), *_difference(row, metric))
            )
    if not made:
        return None
    headings = (
        *map(heading, labels),
        "minus",
        "metric",
        "unit",
        "difference",
        f"{run.level} interval",
        "p, Holm",
        "prompts",
    )
    return _capped(
        headings,
        made,
        len(labels) + 3,
        "Paired differences",
        "comparisons.csv",
        _constant(rows, run.comparisons.labels),
    )


def _capped(
    headings: tuple[str, ...], rows: list[tuple[str, ...]], left: int, title: str, file: str, constant: str
) -> Table:
    more = f"The first {MOST} of {len(rows):,} rows; {file} has all." if len(rows) > MOST else f"Also in {file}."
    note = f"All rows have {constant}. {more}" if constant else more
    return Table(headings=headings, rows=tuple(rows[:MOST]), left=left, title=title, note=note, folded=True)


def _difference(row: Row, metric: Metric) -> Iterator[str]:
    yield metric.title or metric.name
    yield f"points ({words.unit(metric)})" if metric.of else metric.unit
    yield words.value(row["delta"], metric, signed=True)
    yield "none" if row["degenerate"] is True else words.interval(row["ci_low"], row["ci_high"], metric, signed=True)
    yield words.NOTHING if row["p_holm"] is None else words.p_value(row["p_holm"])
    yield words.number(row["n_prompts"])


def _other(row: Row, others: Sequence[str]) -> str:
    """The condition that is subtracted: its labels that differ from the row's own."""
    differ = [name for name in others if row[name] and row[name] != row.get(name.removeprefix(OTHER))]
    return ", ".join(f"{heading(name.removeprefix(OTHER))} {row[name]}" for name in differ) or words.NOTHING


def varied(rows: Sequence[Row], labels: Sequence[str]) -> list[str]:
    """The labels that have more than one value; the first one where none has."""
    found = [name for name in labels if len({row[name] for row in rows}) > 1]
    return found or list(labels[:1])


def _constant(rows: Sequence[Row], labels: Sequence[str]) -> str:
    """The labels that have one value in all rows, with it."""
    shown = varied(rows, labels)
    same = [(name, rows[0][name]) for name in labels if name not in shown and rows and rows[0][name]]
    return ", ".join(f"{heading(name)} {value}" for name, value in same)


def heading(column: str) -> str:
    """A column's name as a heading."""
    return column.replace("_", " ")


def estimate(row: Row | None, metric: Metric) -> str:
    """A mean with its interval, shares in percent."""
    if row is None or words.missing(row["mean"]):
        return words.NOTHING
    return f"{words.value(row['mean'], metric)} {words.interval(row['ci_low'], row['ci_high'], metric)}"
