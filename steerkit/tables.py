"""results.csv and comparisons.csv: one row per condition and metric; paired differences by prompt."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from steerkit.conditions import Condition, Experiment, Planner, none
from steerkit.judging.metrics import RunMetric
from steerkit.judging.scores import Scores, mean_of, perplexity
from steerkit.stats.intervals import Estimate, holm, mean_interval, pairing_gain
from steerkit.store.files import atomic

RESULT_COLUMNS = (
    "experiment",
    "split",
    "source",
    "target",
    "method",
    "layer",
    "window_start",
    "window_end",
    "pool",
    "strength",
    "metric",
    "mean",
    "sd",
    "ci_low",
    "ci_high",
    "n_prompts",
    "n_apart",
    "degenerate",
    "n_nonempty",
    "n_collapsed",
    "mean_words",
    "longest_repeat",
    "distinct_2",
    "perplexity",
    "judge",
    "scale",
    "added_norm",
    "chosen",
)
COMPARISON_COLUMNS = (
    "experiment",
    "split",
    "source",
    "target",
    "method",
    "layer",
    "window_start",
    "window_end",
    "pool",
    "strength",
    "added_norm",
    "metric",
    "vs_method",
    "vs_source",
    "vs_target",
    "vs_layer",
    "vs_window_start",
    "vs_window_end",
    "delta",
    "ci_low",
    "ci_high",
    "n_prompts",
    "n_apart",
    "degenerate",
    "holds",
    "p",
    "p_holm",
    "pairing_gain",
    "chosen",
)

TEXT_COLUMNS = frozenset(
    [
        "experiment",
        "split",
        "source",
        "target",
        "method",
        "pool",
        "metric",
        "judge",
        "scale",
        "vs_method",
        "vs_source",
        "vs_target",
        "label",
        "reference",
        "unembedding",
    ]
)
"""Columns of all tables of a run that hold names: a label called 007, NA or True stays that."""


def result_rows(
    experiments: Sequence[Experiment], scores: Scores, planner: Planner, chosen: float
) -> list[dict[str, Any]]:
    """One row per experiment, condition and metric."""
    known: dict[tuple[str, str, str], Estimate] = {}
    rows = []
    for experiment in experiments:
        for condition in experiment.conditions:
            own = list(scores[experiment.split, condition].values())
            filled = [s for s in own if s.words]
            for metric in scores.metrics:
                key = (experiment.split, condition.id, metric.name)
                if key not in known:
                    values = scores.by_prompt(experiment.split, condition, metric)[1]
                    known[key] = mean_interval(values, confidence=planner.args.confidence, bounds=metric.limits)
                estimate = known[key]
                rows.append(
                    {
                        "experiment": experiment.name,
                        "split": experiment.split,
                        **condition.columns(),
                        "metric": metric.name,
                        "mean": estimate.mean,
                        "sd": estimate.sd,
                        "ci_low": estimate.low,
                        "ci_high": estimate.high,
                        "n_prompts": estimate.n,
                        "n_apart": estimate.apart,
                        "degenerate": estimate.degenerate,
                        "n_nonempty": len(filled),
                        "n_collapsed": sum(s.collapsed for s in own),
                        "mean_words": mean_of(s.words for s in own),
                        "longest_repeat": max((s.repeat for s in own), default=0),
                        "distinct_2": mean_of(s.distinct for s in filled),
                        "perplexity": perplexity(own),
                        "judge": metric.judge,
                        "scale": planner.fitter.config.scale,
                        "chosen": condition.strength == chosen,
                    }
                )
    return rows


def comparison_rows(
    experiments: Sequence[Experiment], scores: Scores, planner: Planner, chosen: float
) -> list[dict[str, Any]]:
    """Paired differences by prompt on the test split: the fitted vector against everything it is held against.

    `p_holm` is adjusted over all comparisons of the same experiment and metric.
    """
    rows: list[dict[str, Any]] = []
    for experiment in experiments:
        if experiment.split == "test":
            for condition, other in _pairs(experiment, planner):
                rows += [
                    _compare(experiment, condition, other, metric, scores, planner, chosen) for metric in scores.metrics
                ]
    families: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        families.setdefault((row["experiment"], row["metric"]), []).append(row)
    for family in families.values():
        for row, adjusted in zip(family, holm([row["p"] for row in family]), strict=True):
            row["p_holm"] = adjusted
    return rows


def _pairs(experiment: Experiment, planner: Planner) -> list[tuple[Condition, Condition]]:
    fitted = [c for c in experiment.conditions if c.method == planner.args.fitter.name]
    found: list[tuple[Condition, Condition]] = []
    if experiment.name == "transfer":
        found.append((none("base"), none("reasoning")))
    for c in fitted:
        same = [o for o in experiment.conditions if o is not c and o.strength == c.strength]
        like = [o for o in same if o.source == c.source]
        if experiment.name == "transfer":
            found.append((c, none(c.target)))
            if c.target == "base":
                found.append((c, none("reasoning")))
            elif c.source == "base":
                found += [(c, o) for o in same if o.target == "reasoning" and o.source == "reasoning"]
        elif experiment.name == "baselines":
            found += [(c, o) for o in same if o.method != c.method]
        elif (experiment.name == "offsets" and c.window == planner.window) or (
            experiment.name == "layers" and c.layer == planner.args.layer
        ):
            found += [(c, none(c.target)), *((c, o) for o in like)]
    return found


def _compare(
    experiment: Experiment,
    c: Condition,
    other: Condition,
    metric: RunMetric,
    scores: Scores,
    planner: Planner,
    chosen: float,
) -> dict[str, Any]:
    """The vector's own collapsed generations may count as unsteered ones (`*_uncollapsed`), the other's never do.

    `holds`: the whole interval lies on the better side of 0, above it for a metric that is better neither up nor down.
    """
    ours = dict(zip(*scores.by_prompt(experiment.split, c, metric), strict=True))
    theirs = dict(zip(*scores.by_prompt(experiment.split, other, metric, plain=True), strict=True))
    both = np.array([(ours[p], theirs[p]) for p in ours]).reshape(-1, 2)
    estimate = mean_interval(both[:, 0] - both[:, 1], confidence=planner.args.confidence, bounds=metric.difference)
    holds = estimate.high < 0 if metric.sign < 0 else estimate.low > 0
    vs = other.columns()
    return {
        "experiment": experiment.name,
        "split": experiment.split,
        **c.columns(),
        "metric": metric.name,
        "vs_method": other.method,
        "vs_source": other.source,
        "vs_target": other.target,
        "vs_layer": vs["layer"],
        "vs_window_start": vs["window_start"],
        "vs_window_end": vs["window_end"],
        "delta": estimate.mean,
        "ci_low": estimate.low,
        "ci_high": estimate.high,
        "n_prompts": estimate.n,
        "n_apart": estimate.apart,
        "degenerate": estimate.degenerate,
        "holds": holds and not estimate.degenerate,
        "p": estimate.p,
        "pairing_gain": pairing_gain(*both.T),
        "chosen": c.strength == chosen,
    }


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as csv, floats with six significant digits, NaN as nothing."""
    with atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows({name: _cell(row[name]) for name in columns} for row in rows)


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return value


def read_csv(path: Path) -> list[dict[str, Any]]:
    """Rows of `write_csv`: `TEXT_COLUMNS` as text, else numbers and booleans as such; empty cells as None."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {k: (v or None) if k in TEXT_COLUMNS else _parse(v) for k, v in row.items()} for row in csv.DictReader(file)
        ]


def read_header(path: Path) -> list[str]:
    """Names of the columns of a table; none where it is empty."""
    with path.open(newline="", encoding="utf-8") as file:
        return next(csv.reader(file), [])


def _parse(text: str) -> Any:
    if text in ("True", "False"):
        return text == "True"
    try:
        return float(text) if text else None
    except ValueError:
        return text
