"""Scores of every generation; one row per condition and metric; paired differences by prompt."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steerkit.conditions import Condition, Experiment, none
from steerkit.files import atomic
from steerkit.intervals import Estimate, mean_interval
from steerkit.quality import collapsed, distinct_2, longest_repeat
from steerkit.tokens import split_answer

if TYPE_CHECKING:
    from steerkit.arguments import SteeringArguments
    from steerkit.conditions import Planner
    from steerkit.interfaces import Judge

METRICS = ("keyword", "keyword_uncollapsed", "judged_sentences", "judged_uncollapsed", "other_sentences")
"""b (Eq. 1); share of sentences judged to have the label; both with collapsed generations counted as their
unsteered ones; share of sentences that fit no label (text damage)."""

PLAIN = {"keyword_uncollapsed": "keyword", "judged_uncollapsed": "judged_sentences"}

RESULT_COLUMNS = (
    "experiment", "split", "source", "target", "method", "layer", "window_start", "window_end", "strength",
    "metric", "mean", "sd", "ci_low", "ci_high", "n_prompts", "n_nonempty", "n_collapsed", "mean_words",
    "longest_repeat", "distinct_2", "judge", "scale", "added_norm", "chosen",
)  # fmt: skip
COMPARISON_COLUMNS = (
    "experiment", "split", "source", "target", "method", "layer", "window_start", "window_end", "strength",
    "added_norm", "metric", "vs_method", "vs_source", "vs_target", "vs_layer", "vs_window_start", "vs_window_end",
    "delta", "ci_low", "ci_high", "n_prompts", "holds", "chosen",
)  # fmt: skip


@dataclass(frozen=True)
class Score:
    """Figures of one generation's reasoning; NaN where an empty text has none."""

    keyword: float
    judged: float
    other: float
    collapsed: bool
    words: int
    repeat: int
    distinct: float


class Scores:
    """All generations of a run, scored, by split, condition, prompt and sample."""

    def __init__(self, by_id: dict[tuple[str, str], dict[tuple[str, int], Score]]) -> None:
        self._by_id = by_id

    @classmethod
    def of(
        cls,
        rows: Sequence[dict[str, Any]],
        args: SteeringArguments,
        span_judge: Judge,
        score_judge: Judge,
        label: str,
    ) -> Scores:
        """Score generations by both judges; words after the end of the reasoning don't count."""
        texts = [split_answer(row["text"], args.think_end)[0] for row in rows]
        judged, numbers = span_judge.score(texts), score_judge.score(texts)
        nan = float("nan")
        found: dict[tuple[str, str], dict[tuple[str, int], Score]] = {}
        for row, text, shares, number in zip(rows, texts, judged, numbers, strict=True):
            score = Score(
                keyword=number.get("keyword", nan),
                judged=shares.get(label, nan),
                other=shares.get("other", nan),
                collapsed=collapsed(text),
                words=len(text.split()),
                repeat=longest_repeat(text),
                distinct=distinct_2(text),
            )
            found.setdefault((row["split"], row["condition"]), {})[row["prompt_id"], row["sample"]] = score
        return cls(found)

    def __getitem__(self, key: tuple[str, Condition]) -> dict[tuple[str, int], Score]:
        return self._by_id[key[0], key[1].id]

    def by_prompt(self, split: str, condition: Condition, metric: str) -> tuple[list[str], np.ndarray]:
        """Prompts, and a value a prompt: the mean over its samples, NaN where none has any."""
        scores = self[split, condition]
        unsteered = self._by_id.get((split, none(condition.target).id), scores)
        values: dict[str, list[float]] = {}
        for (prompt, sample), score in scores.items():
            if metric in PLAIN and score.collapsed:
                score = unsteered[prompt, sample]
            name = PLAIN.get(metric, metric)
            value = {
                "keyword": score.keyword,
                "judged_sentences": score.judged,
                "other_sentences": score.other,
            }[name]
            values.setdefault(prompt, []).append(value)
        prompts = sorted(values)
        return prompts, np.array([_mean(values[p]) for p in prompts])


def _mean(values: Iterable[float]) -> float:
    real = [v for v in values if not math.isnan(v)]
    return sum(real) / len(real) if real else float("nan")


def interval_of(args: SteeringArguments) -> Any:
    """`mean_interval` with the run's level, resamples and seed."""
    return partial(mean_interval, confidence=args.confidence, resamples=args.resamples, seed=args.seed)


def choose_strength(scores: Scores, planner: Planner) -> tuple[float, str]:
    """The strength that claims are made at, and in words how it came to be chosen."""
    rule = planner.args.choose
    found = []
    for strength in planner.args.nonzero:
        condition = planner.dom("base", "reasoning", strength)
        own = scores["choose", condition].values()
        other = _mean(s.other for s in own)
        broken = sum(s.collapsed for s in own) / len(own)
        value = _mean(scores.by_prompt("choose", condition, rule.metric)[1])
        damaged = not (other <= rule.max_other and broken <= rule.max_collapsed)
        found.append((damaged, -value if not math.isnan(value) else math.inf, strength, other, broken))
    damaged, value, strength, other, broken = min(found)
    how = (
        f"strength {strength:g} has the highest {rule.metric} on the choose prompts ({-value:.4f}; {other:.0%} of its "
        f"sentences fit no label, {broken:.0%} of its generations collapsed)"
    )
    if damaged:
        how += (
            f"; every strength was over the limits of choose.max_other ({rule.max_other:.0%}) or "
            f"choose.max_collapsed ({rule.max_collapsed:.0%})"
        )
    return strength, how


def result_rows(
    experiments: Sequence[Experiment], scores: Scores, planner: Planner, chosen: float
) -> list[dict[str, Any]]:
    """One row per experiment, condition and metric."""
    args, interval = planner.args, interval_of(planner.args)
    known: dict[tuple[str, str, str], Estimate] = {}
    rows = []
    for experiment in experiments:
        for condition in experiment.conditions:
            own = list(scores[experiment.split, condition].values())
            filled = [s for s in own if s.words]
            for metric in METRICS:
                key = (experiment.split, condition.id, metric)
                if key not in known:
                    known[key] = interval(scores.by_prompt(experiment.split, condition, metric)[1])
                estimate = known[key]
                judge = args.score_judge.name if metric.startswith("keyword") else args.span_judge.name
                rows.append({
                    "experiment": experiment.name, "split": experiment.split, **condition.columns(), "metric": metric,
                    "mean": estimate.mean, "sd": estimate.sd, "ci_low": estimate.low, "ci_high": estimate.high,
                    "n_prompts": estimate.n, "n_nonempty": len(filled), "n_collapsed": sum(s.collapsed for s in own),
                    "mean_words": _mean(s.words for s in own), "longest_repeat": max((s.repeat for s in own), default=0),
                    "distinct_2": _mean(s.distinct for s in filled), "judge": judge,
                    "scale": planner.fitter.config.scale, "chosen": condition.strength == chosen,
                })  # fmt: skip
    return rows


def comparison_rows(
    experiments: Sequence[Experiment], scores: Scores, planner: Planner, chosen: float
) -> list[dict[str, Any]]:
    """Paired differences by prompt on the test split: the fitted vector against everything it is held against."""
    rows = []
    for experiment in experiments:
        if experiment.split == "test":
            for condition, other in _pairs(experiment, planner):
                rows += [_compare(experiment, condition, other, metric, scores, planner, chosen) for metric in METRICS]
    return rows


def _pairs(experiment: Experiment, planner: Planner) -> list[tuple[Condition, Condition]]:
    fitted = [c for c in experiment.conditions if c.method == planner.args.fitter.name]
    found: list[tuple[Condition, Condition]] = []
    for c in fitted:
        same = [o for o in experiment.conditions if o is not c and o.strength == c.strength]
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
            found += [(c, none(c.target)), *((c, o) for o in same)]
    return found


def _compare(
    experiment: Experiment,
    c: Condition,
    other: Condition,
    metric: str,
    scores: Scores,
    planner: Planner,
    chosen: float,
) -> dict[str, Any]:
    """The vector's own collapsed generations may count as unsteered ones (`*_uncollapsed`), the other's never do."""
    ours = dict(zip(*scores.by_prompt(experiment.split, c, metric), strict=True))
    theirs = dict(zip(*scores.by_prompt(experiment.split, other, PLAIN.get(metric, metric)), strict=True))
    estimate = interval_of(planner.args)(np.array([ours[p] - theirs[p] for p in ours]))
    vs = other.columns()
    return {
        "experiment": experiment.name, "split": experiment.split, **c.columns(), "metric": metric,
        "vs_method": other.method, "vs_source": other.source, "vs_target": other.target, "vs_layer": vs["layer"],
        "vs_window_start": vs["window_start"], "vs_window_end": vs["window_end"], "delta": estimate.mean,
        "ci_low": estimate.low, "ci_high": estimate.high, "n_prompts": estimate.n, "holds": estimate.low > 0,
        "chosen": c.strength == chosen,
    }  # fmt: skip


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
    """Rows of `write_csv`: numbers as numbers, booleans as booleans, empty cells as None."""
    with path.open(newline="", encoding="utf-8") as file:
        return [{k: _parse(v) for k, v in row.items()} for row in csv.DictReader(file)]


def _parse(text: str) -> Any:
    if text in ("True", "False"):
        return text == "True"
    try:
        return float(text) if text else None
    except ValueError:
        return text
