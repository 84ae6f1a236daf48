"""What the sweeps over windows and over blocks share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from steerkit.artifacts import Condition, Pair
from steerkit.context import Run
from steerkit.findings import Findings
from steerkit.judging.metrics import RunMetric
from steerkit.report import words
from steerkit.settings import Steering
from steerkit.steps.results import Results
from steerkit_plugins.backtracking.conditions import is_plain, like
from steerkit_plugins.experiments.words import pages


def strengths_of(run: Run, wanted: Any, choice: Findings) -> tuple[float, ...]:
    """Strengths of a sweep: as asked for, `all` of the recipe's, or the chosen one."""
    every = run.peek(Steering).nonzero
    return every if wanted == "all" else tuple(wanted or (choice.value["strength"],))


def swept_pairs(conditions: Sequence[Condition], own: Callable[[Condition], bool]) -> list[Pair]:
    """The place that other experiments have against unsteered, and against every other place at its strength."""
    unsteered = next(c for c in conditions if is_plain(c))
    found = []
    for c in conditions:
        if not is_plain(c) and own(c):
            alike = {name: c.labels[name] for name in ("source", "strength")}
            others = [o for o in conditions if o is not c and like(o, **alike)]
            found += [Pair(ours=c, other=other) for other in (unsteered, *others)]
    return found


def best(results: Results, conditions: Sequence[Condition], metric: RunMetric, name: Callable[[Condition], str]) -> str:
    """The three best means of a sweep, with intervals."""
    towards = metric.sign or 1
    rows = [(condition, results.row(condition, metric.name)) for condition in conditions]
    there = [(c, row) for c, row in rows if not words.missing(row["mean"])]
    there = sorted(there, key=lambda each: -towards * each[1]["mean"])[:3]
    percent = " %" if metric.of else ""
    each = [
        f"{name(c)} with {words.value(r['mean'], metric)}{percent} {words.interval(r['ci_low'], r['ci_high'], metric)}"
        for c, r in there
    ]
    return f"{'highest' if towards > 0 else 'lowest'}: {', '.join(each)}" if each else ""


def sweep_heading(what: str, results: Results, conditions: Sequence[Condition]) -> str:
    """A sweep's heading: at one strength it is named, of a heatmap what its cells are."""
    strengths = sorted({float(c.labels["strength"]) for c in conditions})
    if len(strengths) == 1:
        return pages(f"{what}, strength {words.short(strengths[0])}", results)
    n = max((int(row["n_prompts"]) for row in results.rows), default=0)
    return f"{what} (mean over n = {n} test prompts; outlined: as the recipe says)"
