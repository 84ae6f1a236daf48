"""The page's tables: a row a condition, with intervals and what keeps the figures honest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steerkit.interfaces import Metric
from steerkit.judging.metrics import ACCURACY, OTHERS, RunMetric
from steerkit.report import words
from steerkit.report.run import Row, Run, select

QUALITY = ("texts not empty", "collapsed", "mean words", "longest repeat", "distinct‑2", "perplexity")


@dataclass(frozen=True)
class Table:
    """Headings and rows of text; the first `left` columns are words, the others numbers."""

    headings: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    left: int
    strong: frozenset[int] = frozenset()


def experiment_table(run: Run, experiment: str, split: str = "test") -> Table:
    """An experiment's conditions; those at the chosen strength of the fitted vector are strong."""
    rows = select(run.results, experiment=experiment, split=split)
    names = {
        "transfer": ("vector", "target"),
        "baselines": ("method",),
        "offsets": ("vector", "window"),
        "layers": ("vector", "block"),
    }[experiment]
    by_condition: dict[tuple[object, ...], dict[str, Row]] = {}
    for row in rows:
        key = tuple(row[c] for c in ("source", "target", "method", "layer", "window_start", "strength"))
        by_condition.setdefault(key, {})[row["metric"]] = row
    shown = tabulated(run)
    metrics = [f"{metric.title}, {words.unit(metric)}" for metric in shown]
    quality = QUALITY if any(not words.missing(row.get("perplexity")) for row in rows) else QUALITY[:-1]
    made, strong = [], set()
    for index, found in enumerate(by_condition.values()):
        any_row = next(iter(found.values()))
        if _is_main(run, any_row):
            strong.add(index)
        made.append(
            (
                *_names(run, experiment, any_row),
                words.short(any_row["strength"]),
                *(estimate(found.get(metric.name), metric) for metric in shown),
                *_quality(any_row)[: len(quality)],
            )
        )
    return Table((*names, "strength", *metrics, *quality), made, len(names), frozenset(strong))


def tabulated(run: Run) -> list[RunMetric]:
    """The metrics that tables of conditions have a column of."""
    return [*run.shown, *(metric for metric in run.metrics if metric.name in (OTHERS, ACCURACY))]


def comparison_table(run: Run) -> Table:
    """All paired differences at the chosen strength, each in its metric's unit."""
    headings = (
        "experiment",
        "vector",
        "target",
        "minus",
        "metric",
        "unit",
        "difference",
        f"{run.level} interval",
        "p, Holm",
        "narrower by pairing, %",
        "n",
    )
    rows = [_difference(run, row) for row in run.comparisons if row["strength"] == run.strength]
    return Table(headings, rows, 6)


def _difference(run: Run, row: Row) -> tuple[str, ...]:
    metric = run.metric(row["metric"])
    what = str(row["experiment"]), f"{row['source']}-derived", str(row["target"]), _other(row)
    unit = f"points ({words.unit(metric)})" if metric.of else metric.unit
    delta = words.value(row["delta"], metric, signed=True)
    interval = words.interval(row["ci_low"], row["ci_high"], metric, signed=True)
    gain = words.number(None if row["pairing_gain"] is None else 100 * row["pairing_gain"])
    return (*what, metric.title, unit, delta, interval, _p(row["p_holm"]), gain, words.number(row["n_prompts"]))


def _p(value: float | None) -> str:
    return words.NOTHING if value is None else words.p_value(value)


def estimate(row: Row | None, metric: Metric) -> str:
    """A mean with its interval, shares in percent."""
    if row is None or words.missing(row["mean"]):
        return words.NOTHING
    return f"{words.value(row['mean'], metric)} {words.interval(row['ci_low'], row['ci_high'], metric)}"


def _is_main(run: Run, row: Row) -> bool:
    window = (row["window_start"], row["window_end"])
    return (
        (row["method"], row["source"], row["layer"]) == (run.fitter, "base", run.layer)
        and window == run.window
        and row["target"] == "reasoning"
        and row["strength"] == run.strength
    )


def _names(run: Run, experiment: str, row: Row) -> Sequence[str]:
    unsteered = row["method"] == "none"
    if experiment == "transfer":
        return ("none" if unsteered else f"{row['source']}-derived", str(row["target"]))
    if experiment == "baselines":
        return (words.method(row["method"], run.fitter),)
    if unsteered:
        return ("none", words.NOTHING)
    if experiment == "offsets":
        return (f"{row['source']}-derived", words.window(row["window_start"], row["window_end"]))
    return (f"{row['source']}-derived", words.short(row["layer"]))


def _quality(row: Row) -> tuple[str, ...]:
    return (
        words.number(row["n_nonempty"]),
        words.number(row["n_collapsed"]),
        words.number(row["mean_words"], 1),
        words.number(row["longest_repeat"]),
        words.number(row["distinct_2"], 2),
        words.number(row.get("perplexity"), 2),
    )


def _other(row: Row) -> str:
    if row["vs_method"] == "none":
        return f"unsteered {row['vs_target']}"
    if row["experiment"] == "offsets":
        return f"window {words.window(row['vs_window_start'], row['vs_window_end'])}"
    if row["experiment"] == "layers":
        return f"block {words.short(row['vs_layer'])}"
    return f"{row['vs_source']}-derived" if row["experiment"] == "transfer" else str(row["vs_method"])
