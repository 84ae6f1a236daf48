"""A small finished run folder made in code: tables, texts and vectors with effects of any size."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from steerkit import registry
from steerkit.conditions import Condition, VectorKey, none
from steerkit.interfaces import Judge
from steerkit.judging.metrics import RunMetric, run_metrics, write_metrics
from steerkit.recipe.load import load_recipe
from steerkit.tables import COMPARISON_COLUMNS, RESULT_COLUMNS, write_csv
from steerkit.vectors.info import VectorInfo
from steerkit.vectors.steering_vector import SteeringVector

WINDOW, LAYER, N = (-13, -8), 2, 12
BASELINES = ("overall-mean", "gaussian-noise", "deduction")
HOSTILE = "<script>alert(1)</script> {{ 7 * 7 }} {% raw %} <img src=x onerror=y> & \u202e"


def metrics_with(judge: Judge) -> tuple[RunMetric, ...]:
    """The metrics of a run with this score judge."""
    rules = registry.get("judges", "rules")(patterns={"backtracking": ["^Wait"]})
    return run_metrics(load_recipe("backtracking"), rules, judge, label="backtracking", answers=False)


METRICS = metrics_with(registry.get("judges", "keyword")())

Value = Callable[[Condition, str], float | None]


def key(source: str, window: tuple[int, int] = WINDOW, pool: Any = "own") -> VectorKey:
    return VectorKey(source=source, label="backtracking", window=window, pool=pool)


def dom(source: str, target: str, strength: float, layer: int = LAYER, vector: VectorKey | None = None) -> Condition:
    vector = vector or key(source)
    return Condition(
        target=target,
        method="dom",
        source=source,
        layer=layer,
        window=vector.window,
        strength=strength,
        added_norm=strength,
        vector=vector,
    )


def other(method: str, strength: float) -> Condition:
    return Condition(target="reasoning", method=method, layer=LAYER, strength=strength, added_norm=strength)


def effect(size: float) -> Value:
    """Values where the base-derived vector raises everything on the reasoning model by `size` per unit of strength."""

    def value(condition: Condition, metric: str) -> float:
        own = condition.method == "dom" and condition.target == "reasoning" and condition.layer == LAYER
        raised = size * condition.strength / 10 if own and metric != "other_sentences" else 0.0
        return raised + (0.02 if condition.target == "reasoning" else 0.001)

    return value


def experiments(strengths: Sequence[float], swept: Sequence[float]) -> dict[str, list[Condition]]:
    both = ("base", "reasoning")
    windows = ((-20, -15), WINDOW, (0, 5))
    return {
        "transfer": [*map(none, both), *(dom(s, t, x) for s in both for t in both for x in strengths)],
        "baselines": [
            none("reasoning"),
            *(c for x in strengths for c in (dom("base", "reasoning", x), *(other(m, x) for m in BASELINES))),
        ],
        "offsets": [
            none("reasoning"),
            *(dom("base", "reasoning", x, vector=key("base", w, "sweep")) for w in windows for x in swept),
        ],
        "layers": [none("reasoning"), *(dom("base", "reasoning", x, layer) for layer in (0, 2, 3) for x in swept)],
    }


def write_run(
    folder: Path,
    value: Value,
    *,
    strengths: Sequence[float] = (10.0, 20.0),
    swept: Sequence[float] = (10.0,),
    kept: Sequence[str] = ("transfer", "baselines", "offsets", "layers"),
    text: str = "Wait, no. Next.",
    same_model: bool = False,
    metrics: Sequence[RunMetric] = (),
) -> Path:
    """Write the folder; the first strength is the chosen one, intervals are 0.005 wide on either side."""
    metrics = metrics or METRICS
    found = {name: c for name, c in experiments(strengths, swept).items() if name in kept}
    results, comparisons = [], []
    for name, conditions in found.items():
        for c in conditions:
            results += [_result(name, c, m, value, strengths[0]) for m in metrics]
            for o in _others(name, c, conditions):
                comparisons += [_comparison(name, c, o, m, value, strengths[0]) for m in metrics]
    write_csv(folder / "results.csv", RESULT_COLUMNS, results)
    write_csv(folder / "comparisons.csv", COMPARISON_COLUMNS, comparisons)
    write_metrics(folder, metrics)
    for source in ("base", "reasoning"):
        info = VectorInfo(method="dom", label="backtracking", window=WINDOW, source=source, depth=4)
        directions = {layer: torch.tensor([1.0, float(source == "base"), 0.0]) for layer in range(4)}
        (folder / "vectors").mkdir(exist_ok=True)
        SteeringVector(directions, info).save(folder / "vectors" / key(source).file)
    _write(folder, strengths[0], text, same_model)
    return folder


def _write(folder: Path, chosen: float, text: str, same_model: bool) -> None:
    recipe = {
        "name": "tiny",
        "about": f"Does it? {HOSTILE}",
        "seed": 3,
        "samples": 1,
        "think_end": "</think>",
        "span_judge": {"name": "rules", "patterns": {"backtracking": ["^Wait"]}},
        "score_judge": {"name": "keyword", "keywords": ["wait", "hmm"], "substring": False},
        "fitter": {"name": "dom", "label": "backtracking", "window": list(WINDOW), "scale": "unit"},
        "layer": LAYER,
        "confidence": 0.9,
        "made_with": {
            "base": {"model": "pocket:base", "fingerprint": "f00d", "blocks": 4, "width": 3},
            "reasoning": {"model": "pocket:reasoning", "fingerprint": "beef", "same_model": same_model},
            "versions": {"torch": "9.9"},
        },
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, allow_unicode=True), encoding="utf-8")
    (folder / "choice.json").write_text(json.dumps({"strength": chosen, "how": "it was the best"}))
    notes = {
        "labels": {"backtracking": 5, "deduction": 7},
        "mean_coverage": 0.95,
        "rejected_spans": {"odd": 2},
        "answered_by": {"gpt-4o-2024-11-20": 9},
        "input_tokens": 1200,
        "output_tokens": 900,
        "dollars": 0.012,
        "unusable_answers": {"refused": 1},
    }
    (folder / "spans.notes.json").write_text(json.dumps(notes))
    log = {"role": "base", "dropped_windows": {"deduction": 1}, "counted": {"backtracking": 5, "deduction": 6}}
    (folder / "log.jsonl").write_text(json.dumps({"traces": 9, "mean_tokens": 50.0}) + "\n" + json.dumps(log) + "\n")
    stages = {"traces": {"key": "abc", "files": {}, "seconds": 1.5}, "report": {"key": "x", "files": {}, "seconds": 9}}
    (folder / "state.json").write_text(json.dumps({"stages": stages}))
    prompts = [{"id": f"p{i}", "prompt": HOSTILE, "split": "test"} for i in range(3)]
    shown = [none("reasoning"), dom("base", "reasoning", chosen), other("deduction", chosen)]
    sweep = dom("base", "reasoning", chosen, vector=key("base", WINDOW, "sweep"))
    texts = {c.id: f"{text} {HOSTILE}</think> It is 4." for c in shown} | {sweep.id: "From the sweep."}
    rows = [
        {"split": "test", "condition": c.id, **c.columns(), "prompt_id": p["id"], "sample": 0, "text": texts[c.id]}
        for p in prompts
        for c in (sweep, *shown)
    ]
    for name, lines in (("prompts.jsonl", prompts), ("generations.jsonl", rows)):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _others(name: str, c: Condition, conditions: Sequence[Condition]) -> list[Condition]:
    if c.method != "dom":
        return []
    same = [o for o in conditions if o is not c and o.strength == c.strength]
    if name == "transfer":
        found = [none(c.target)]
        if c.target == "base":
            found.append(none("reasoning"))
        return found + [o for o in same if (c.source, c.target, o.source, o.target) == ("base", *["reasoning"] * 3)]
    if name == "baselines":
        return same
    return [none("reasoning"), *same] if (c.window, c.layer) == (WINDOW, LAYER) else []


def _result(name: str, c: Condition, metric: RunMetric, value: Value, chosen: float) -> dict[str, Any]:
    mean = value(c, metric.name)
    nan = float("nan")
    some = mean is not None
    return {
        "experiment": name,
        "split": "test",
        **c.columns(),
        "metric": metric.name,
        "mean": mean if some else nan,
        "sd": 0.01 if some else nan,
        "ci_low": mean - 0.005 if some else nan,
        "ci_high": mean + 0.005 if some else nan,
        "n_prompts": N if some else 0,
        "n_apart": N - 1 if some else 0,
        "degenerate": False,
        "n_nonempty": N if some else 0,
        "n_collapsed": 1,
        "mean_words": 40.5,
        "longest_repeat": 3,
        "distinct_2": 0.7 if some else nan,
        "perplexity": nan,
        "judge": "rules",
        "scale": "unit",
        "chosen": c.strength == chosen,
    }


def _comparison(
    name: str, c: Condition, o: Condition, metric: RunMetric, value: Value, chosen: float
) -> dict[str, Any]:
    ours, theirs, vs = value(c, metric.name), value(o, metric.name), o.columns()
    delta = float("nan") if ours is None or theirs is None else ours - theirs
    holds = delta + 0.005 < 0 if metric.sign < 0 else delta - 0.005 > 0
    p = delta if delta != delta else 0.001 if abs(delta) > 0.005 else 0.5
    return {
        "experiment": name,
        "split": "test",
        **c.columns(),
        "metric": metric.name,
        "vs_method": o.method,
        "vs_source": o.source,
        "vs_target": o.target,
        "vs_layer": vs["layer"],
        "vs_window_start": vs["window_start"],
        "vs_window_end": vs["window_end"],
        "delta": delta,
        "ci_low": delta - 0.005,
        "ci_high": delta + 0.005,
        "n_prompts": 0 if delta != delta else N,
        "n_apart": 0 if delta != delta else N - 1,
        "degenerate": False,
        "holds": holds,
        "p": p,
        "p_holm": p,
        "pairing_gain": 0.2,
        "chosen": c.strength == chosen,
    }
