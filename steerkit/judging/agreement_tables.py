"""Agreement as rows of a csv, as JSON, and on the screen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.errors import SteerkitError
from steerkit.stats.agreement import Agreement, Figure
from steerkit.stats.intervals import ENOUGH_POOLED
from steerkit.store.files import write_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

COLUMNS = (
    "group",
    "reference",
    "judge",
    "label",
    "metric",
    "value",
    "ci_low",
    "ci_high",
    "n_units",
    "n_traces",
    "n_reference",
    "n_judge",
    "n_both",
    "missing",
)

METRICS = {"precision": "precision", "recall": "recall", "f1": "F1"}


def agreement_rows(found: Agreement, group: str = "") -> Iterator[dict[str, Any]]:
    """A row for each figure, by `COLUMNS`; counts that a figure hasn't are None."""
    empty = dict.fromkeys(COLUMNS) | {"group": group}
    for pair in found.pairs:
        ours = empty | {
            "reference": pair.reference,
            "judge": pair.judge,
            "n_units": pair.n_units,
            "n_traces": pair.n_clusters,
            "missing": pair.missing,
        }
        for each in pair.by_label:
            counts = {"n_reference": each.n_reference, "n_judge": each.n_judge, "n_both": each.n_both}
            for metric in METRICS:
                yield ours | counts | {"label": each.label, "metric": metric} | _bounds(getattr(each, metric))
        yield ours | {"metric": "cohen_kappa"} | _bounds(pair.kappa)
        yield ours | {"metric": "agreement"} | _bounds(pair.agreement)
    everyone = {"judge": " ".join(found.judges), "n_units": found.n_units, "n_traces": found.n_clusters}
    yield empty | everyone | {"metric": "krippendorff_alpha"} | _bounds(found.alpha)


def write_agreement(path: Path, found: Mapping[str, Agreement]) -> None:
    """Write agreement by group: rows to a .csv, everything with the confusion tables to a .json.

    Raises:
        SteerkitError: the file has another ending, or can't be written.
    """
    if path.suffix == ".csv":
        from steerkit.store.csv_tables import write_csv

        write_csv(path, COLUMNS, [row for group, each in found.items() for row in agreement_rows(each, group)])
    elif path.suffix == ".json":
        write_json(path, [{"group": group, **_plain(asdict(each))} for group, each in found.items()])
    else:
        raise SteerkitError(f"{path}: agreement is written as .csv or .json; name such a file")


def print_agreement(found: Agreement, console: Console, confidence: float) -> None:
    """Figures of every label against the first judge, kappa of every pair, alpha, and the confusion tables."""
    against = [pair for pair in found.pairs if pair.reference == found.judges[0]]
    console.print(f"{confidence:.0%} intervals behind the figures: bootstrap over traces.")
    for pair in against:
        table = _table(f"{pair.judge} against {pair.reference}", "label", "n", "judge's", "both", *METRICS.values())
        for each in pair.by_label:
            counts = (f"{n:,}" for n in (each.n_reference, each.n_judge, each.n_both))
            table.add_row(each.label, *counts, *(_percent(getattr(each, metric)) for metric in METRICS))
        console.print(table)
        table = _table(f"rows {pair.reference}, columns {pair.judge}", "", *pair.labels)
        for label, row in zip(pair.labels, pair.table, strict=True):
            table.add_row(label, *(f"{n:,}" for n in row))
        console.print(table)
    table = _table("all labels", "judges", "units", "traces", "no label", "agreement", "Cohen's kappa")
    for pair in found.pairs:
        counts = (f"{n:,}" for n in (pair.n_units, pair.n_clusters, pair.missing))
        table.add_row(f"{pair.reference} / {pair.judge}", *counts, _percent(pair.agreement), _number(pair.kappa))
    console.print(table)
    console.print(f"Krippendorff's alpha of all {len(found.judges)}: {_number(found.alpha)}")
    if found.n_clusters < ENOUGH_POOLED:
        console.print(
            f"Few traces: {found.n_clusters}. Below {ENOUGH_POOLED} these intervals hold the truth less often than "
            "their level says (docs/statistics.md)."
        )


def _table(title: str, first: str, *columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), title=title, title_justify="left")
    table.add_column(first, overflow="fold", min_width=min(22, len(first)))
    for column in columns:
        table.add_column(column, justify="right", overflow="fold")
    return table


def _bounds(figure: Figure) -> dict[str, float]:
    return {"value": figure.value, "ci_low": figure.low, "ci_high": figure.high}


def _percent(figure: Figure) -> str:
    return _shown(figure, lambda value: f"{100 * value:.1f}", " %")


def _number(figure: Figure) -> str:
    return _shown(figure, lambda value: f"{value:.3f}", "")


def _shown(figure: Figure, form: Callable[[float], str], unit: str) -> str:
    if math.isnan(figure.value):
        return "–"
    if math.isnan(figure.low):
        return form(figure.value) + unit
    return f"{form(figure.value)}{unit} {form(figure.low)}…{form(figure.high)}"


def _plain(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
