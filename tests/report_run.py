"""A small finished run folder made in code: findings with every kind of figure, tables, texts, a recipe."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from steerkit.findings import (
    Band,
    Bars,
    Claim,
    Dot,
    Figure,
    Findings,
    Graph,
    Heatmap,
    Lines,
    Marked,
    Network,
    Piece,
    Series,
    Table,
    Texts,
)
from steerkit.judging.metrics import RunMetric, write_metrics
from steerkit.report.marking import pieces

N = 12
HOSTILE = "<script>alert(1)</script> {{ 7 * 7 }} {% raw %} <img src=x onerror=y> & \u202e"
STRENGTHS = (0.0, 10.0, 20.0, 30.0, 45.0)
RATE = RunMetric(
    "rate", "share of words", (0.0, 1.0), "up", "keyword rate", "words that are keywords", "keyword", main=True
)
TONE = RunMetric("tone", "points 0 to 100", (0.0, 100.0), "down", "harshness", "", "tone")
PLAIN = replace(RATE, name="rate_uncollapsed", title="keyword rate, collapsed as unsteered", plain="rate", main=False)
METRICS = (RATE, PLAIN, TONE)
TEXT = (
    "Okay, the farmer has 17 sheep and all but 9 run away. So 17 − 9 = 8 sheep are left. Wait, let me reread that: all "
    "but 9 means that 9 stay. Hmm, so the answer is 9, not 8. Let me check once more. 9 sheep remain."
)
FINDING = "Adding the first model's direction to the second raises the keyword rate from 1.2 % to 7.4 % of words."


def curve(top: float, middle: float) -> tuple[float, ...]:
    return tuple(round(0.8 + top / (1 + math.exp(-(x - middle) / 6)), 3) for x in STRENGTHS)


def series(name: str, top: float, look: int, *, hollow: bool = False) -> Series:
    y = curve(top, 22)
    return Series(
        name=name,
        x=STRENGTHS,
        y=y,
        low=tuple(v - 0.3 - 0.08 * v for v in y),
        high=tuple(v + 0.4 + 0.12 * v for v in y),
        look=look,
        hollow=hollow,
    )


def transfer(name: str = "transfer") -> Figure:
    """Lines with intervals, two panels, four series."""
    own = (
        series("first model's vector on second model", 7.1, 0),
        series("second model's vector on second model", 6.2, 1),
        series("first model's vector on first model", 0.6, 0, hollow=True),
        series("second model's vector on first model", 0.4, 1, hollow=True),
    )
    panels = tuple(
        Lines(title=title, xlabel="strength (L2 norm added)", ylabel=unit, series=own, bounds=(0, None))
        for title, unit in (("words that are keywords", "% of words"), ("sentences that turn back", "% of sentences"))
    )
    caption = "Vectors of either model added to either model. At 0 nothing is added. Bars are 90 % intervals."
    return Figure(
        name=name,
        title="Transfer between the models",
        caption=caption,
        panels=panels,
        columns=2,
        heading="Both models steered at block 2 (n = 12 test prompts)",
    )


def every_kind() -> tuple[Figure, ...]:
    """One figure of every kind but transfer's."""
    columns = tuple(f"{a}..{a + 5}" for a in range(-20, 5, 3))
    values = tuple(tuple(round(8 * math.exp(-((c - 3) ** 2) / 6) * (r + 1) / 4, 2) for c in range(9)) for r in range(4))
    heat = Heatmap(
        title="keyword rate; unsteered 1.20",
        xlabel="window, tokens from the span's first token",
        ylabel="strength",
        columns=columns,
        rows=("10", "20", "30", "45"),
        values=(*values[:3], (None, *values[3][1:])),
        texts=tuple(tuple(f"{v:.2f}" for v in row) for row in values),
        unit="% of words",
        outlined=3,
    )
    sweep = Lines(
        title="keyword rate",
        xlabel="block whose output is steered (0-based)",
        ylabel="% of words",
        series=(
            Series(
                name="steered", x=(0, 1, 2, 3), y=(1.4, None, 7.4, 3.0), low=(1, None, 6, 2), high=(2, None, 9, 4.4)
            ),
            Series(name="as the recipe says", x=(2,), y=(7.4,), look=0, line=False),
        ),
        band=Band(name="unsteered", low=(0.8,), high=(1.7,), middle=1.2),
        ticks=tuple((i, str(i)) for i in range(4)),
        mark=2,
        bounds=(0, None),
    )
    layers = Lines(
        title="logit-lens score",
        xlabel="block (0-based)",
        ylabel="mean keyword logit",
        series=(
            Series(name="first model's vector", x=tuple(range(12)), y=tuple(0.1 * i**1.4 - 0.8 for i in range(12))),
        ),
        band=Band(
            name="95 % of random directions",
            x=tuple(range(12)),
            low=tuple(-0.2 - 0.06 * i for i in range(12)),
            high=tuple(0.2 + 0.06 * i for i in range(12)),
        ),
        level=0,
        mark=2,
    )
    shades = [(start, start + 9, 1 + start // 9 % 5) for start in range(0, len(TEXT) - 9, 9)]
    text = Marked(
        title="projection on the vector: darker is higher",
        pieces=pieces(TEXT, shades=shades, boxed=[(79, 83)]),
        facts="38 tokens",
    )
    auroc = Lines(
        title="Does it tell beforehand?",
        xlabel="tokens ahead",
        ylabel="AUROC",
        series=(
            Series(
                name="AUROC",
                x=(1, 5, 10, 20),
                y=(0.81, 0.76, 0.7, 0.62),
                low=(0.7, 0.66, 0.6, 0.5),
                high=(0.88, 0.83, 0.77, 0.7),
            ),
        ),
        level=0.5,
        bounds=(0.3, 1.0),
    )
    bars = Bars(
        title="keyword rate at strength 30",
        ylabel="% of words",
        names=("fitted vector", "overall mean of all spans", "gaussian noise", "self-amplify", "never run"),
        values=(7.4, 2.2, 1.1, 1.6, None),
        low=(6.1, 1.6, 0.6, 1.0, None),
        high=(9.0, 3.1, 1.7, 2.3, None),
        level=1.2,
    )
    graph = Graph(
        title="which feature moves which",
        nodes=(("“Wait”", 0, 0), ("negation", 0, 1), ("doubt", 1, 0), ("summing up", 1, 1), ("turns back", 2, 0)),
        edges=((0, 2, 1.8), (1, 2, 0.7), (1, 3, -0.6), (2, 4, 2.4), (3, 4, -1.2)),
    )
    network = Network(
        title="what hangs on what",
        xlabel="token",
        ylabel="block",
        kinds=("feature", "token"),
        dots=(Dot(x=0, y=-1, kind=1), Dot(x=1, y=0, label="“Wait”"), Dot(x=1, y=2, label="doubt")),
        edges=((0, 1, 1.8), (1, 2, -0.7), (0, 2, 0.0)),
        xticks=((0, "if 0"), (1, "so 1")),
        yticks=((-1, "tokens"), (0, "0"), (1, "1"), (2, "2")),
    )
    blank = replace(
        auroc,
        title="nothing to show",
        series=(Series(name="none", x=(1, 2), y=(None, None)),),
        empty="every text is empty",
    )
    return (
        Figure(
            name="windows",
            title="Where the vector is read",
            caption="Vectors of other windows. Framed: the window of the other experiments.",
            panels=(heat,),
        ),
        Figure(
            name="blocks",
            title="Which block is steered",
            caption="The grey band is the unsteered model.",
            panels=(sweep, layers, blank),
        ),
        Figure(
            name="projection",
            title="Does the vector detect?",
            caption="Boxed: counted as a keyword.",
            panels=(text, auroc),
            columns=1,
        ),
        Figure(
            name="baselines",
            title="Against baselines of equal norm",
            caption="Dashed: the unsteered model.",
            panels=(bars,),
        ),
        Figure(name="circuit", title="A graph", caption="Width is the size of an edge's weight.", panels=(graph,)),
        Figure(name="network", title="Dots and edges", caption="Width is an edge's size.", panels=(network,)),
    )


def texts(text: str = TEXT) -> Texts:
    """Two prompts with an unsteered and a steered text each."""
    wait = text.find("Wait")
    spans = [(wait, min(wait + 36, len(text)))] if wait >= 0 else []
    marked = pieces(
        text, filled=spans, boxed=[(a, a + 4) for a, _ in spans], underlined=[(max(a - 14, 0), a) for a, _ in spans]
    )
    steered = Marked(
        title="strength 30",
        pieces=(*marked, Piece(text="</think> It is 9.", grey=True)),
        facts="2 of 7 sentences turn back",
    )
    plain = Marked(
        title="unsteered", pieces=(Piece(text=text[:90]),), facts="0 of 3 sentences turn back", flags=("collapsed",)
    )
    chat = (("system", "You are terse."), ("user", f"All but 9 sheep run away. {HOSTILE}"))
    about = "The first test prompts in their order, none picked. Filled: sentences that turn back. Boxed: keywords."
    return Texts(
        title="Texts",
        about=about,
        prompts=((chat, (plain, steered), "0 / 2"), ((("", "What is 2 + 2?"),), (plain, steered), "0 / 2")),
    )


def found() -> dict[str, Findings]:
    """The findings of a run, by experiment."""
    every = every_kind()
    claims = (
        Claim(
            text="The first model's vector raises the keyword rate over unsteered",
            verdict="holds",
            difference="+6.20",
            interval="[+4.90, +7.80]",
            n=N,
        ),
        Claim(
            text="The first model's vector raises it over every baseline of equal norm",
            verdict="does not hold",
            difference="+0.40",
            interval="[−0.30, +1.10]",
            n=N,
            detail="figures against overall-mean, where it is weakest; holds against 2 of 3",
        ),
        Claim(text="The first model stays below the second at every strength", verdict="cannot be told"),
        Claim(
            kind="beside",
            text="Keyword rate, first minus second model's vector",
            verdict="higher",
            difference="+0.90",
            interval="[+0.20, +1.70]",
            n=N,
            detail="p 0.012 after Holm over 14",
        ),
        Claim(
            kind="beside",
            text="Cosine of the two vectors: 0.71 at block 2",
            detail="0.60 to 0.80 over blocks 0 to 3; no interval: it is one pair",
        ),
    )
    table = Table(
        headings=(
            "vector",
            "target",
            "strength",
            "keyword rate, % of words",
            "harshness, points 0 to 100",
            "texts not empty",
            "collapsed",
            "mean words",
            "distinct‑2",
        ),
        rows=tuple(
            (f"{v}-derived", t, f"{s:g}", "7.40 [6.10, 9.00]", "41.0 [38.2, 44.1]", "12", "1", "40.5", "0.70")
            for v in ("first", "second")
            for t in ("first", "second")
            for s in STRENGTHS[1:3]
        ),
        left=2,
        strong=frozenset([3]),
        title="All conditions",
        note="The strong row is the one that the claims are about.",
    )
    return {
        "transfer": Findings(
            title="Transfer between the models",
            question="Does a direction of one model steer the other?",
            finding=FINDING,
            claims=claims,
            figures=(transfer(), every[0]),
            tables=(table, replace(table, title="Again", folded=True)),
            texts=(texts(),),
            cautions=(
                "One collapsed text at the chosen strength: it outweighs all others where it repeats a keyword.",
            ),
            notes=("The strength was chosen on 8 other prompts.", "Windows: D₊ 5, D 11, 1 dropped."),
        ),
        "sweep": Findings(
            title="Sweeps", question="Which block, and does it detect?", finding="Block 2 is best.", figures=every[1:]
        ),
        "choice": Findings(
            title="How the strength was chosen", finding="Strength 30 has the highest keyword rate.", tables=(table,)
        ),
    }


def write_run(
    folder: Path,
    findings: Mapping[str, Findings] | None = None,
    *,
    asked: Sequence[str] = ("transfer", "sweep"),
    shift: float = 0.0,
    metrics: Sequence[RunMetric] = METRICS,
    labels: Sequence[str] = ("model", "vector", "strength"),
    changes: Mapping[str, Any] = {},
) -> Path:
    """Write the folder.

    Args:
        asked: experiments that the recipe names.
        shift: added to all steered means.
        labels: label columns of the tables.
        changes: keys of the recipe that differ.
    """
    findings = found() if findings is None else findings
    shutil.rmtree(folder / "findings", ignore_errors=True)
    (folder / "findings").mkdir(parents=True)
    for name, one in findings.items():
        (folder / f"findings/{name}.json").write_text(json.dumps({"findings": one.to_json(), "key": "f00d"}))
    conditions = [
        ("first", "none", "0"),
        ("second", "none", "0"),
        *(("second", "dom", f"{s:g}") for s in STRENGTHS[1:]),
    ]
    rows = [_result(c, m, shift, labels) for c in conditions for m in metrics]
    compared = [_comparison(c, m, labels) for c in conditions[2:] for m in metrics]
    write_table(folder / "results.csv", rows)
    write_table(folder / "comparisons.csv", compared)
    write_metrics(folder, metrics)
    recipe = {
        "name": "tiny",
        "about": f"Does a direction in one model steer another? {HOSTILE}",
        "experiments": [{"name": name, "strengths": [10, 20]} if i == 0 else name for i, name in enumerate(asked)],
        "models": {"first": {"model": "pocket:base"}, "second": {"model": "pocket:reasoning"}},
        "confidence": 0.9,
        "made_with": {
            "models": {
                "first": {"model": "pocket:base", "fingerprint": "f00d", "blocks": 4, "width": 3},
                "second": {"model": "pocket:reasoning", "fingerprint": "beef", "blocks": 4, "width": 3},
            },
            "same_models": [],
            "versions": {"torch": "9.9"},
            "plugins": {"judges/keyword": "steerkit-hf 0.1"},
            "seed": 3,
        },
        **changes,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, allow_unicode=True), encoding="utf-8")
    steps = {name: {"key": "abc", "seconds": 1.25} for name in ("prompts", "traces", "report")}
    (folder / "state.json").write_text(json.dumps({"steps": steps}))
    notes = {"labels": {"backtracking": 5, "deduction": 11}, "mean_coverage": 0.95, "rejected_spans": {"odd": 2}}
    notes |= {"answered_by": {"gpt-4o": 9}, "input_tokens": 1200, "output_tokens": 900, "dollars": 0.01}
    (folder / "spans.notes.json").write_text(json.dumps(notes))
    _jsonl(
        folder / "log.jsonl",
        [
            {"traces": 8, "mean_tokens": 41.5},
            {"device": "cpu", "dtype": "float32", "attention": "sdpa", "batches": "padded"},
            {"model": "first", "counted": {"backtracking": 4, "deduction": 11}, "dropped_windows": {"backtracking": 1}},
        ],
    )
    _jsonl(folder / "prompts.jsonl", [{"id": f"p{i}", "prompt": f"What is {i}?", "split": "test"} for i in range(N)])
    return folder


def _jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _labels(condition: Sequence[str], labels: Sequence[str]) -> dict[str, str]:
    return dict(zip(labels, (*condition, *["x"] * len(labels)), strict=False))


def _mean(condition: Sequence[str], metric: RunMetric, shift: float) -> float:
    steered = condition[1] != "none"
    raised = (float(condition[2]) / 500 + shift) * steered
    return (0.012 + raised) if metric.of else 40.0 + 100 * raised


def _result(condition: Sequence[str], metric: RunMetric, shift: float, labels: Sequence[str]) -> dict[str, Any]:
    mean, half = _mean(condition, metric, shift), 0.005 if metric.of else 3.0
    return {
        "experiment": "transfer",
        "split": "test",
        **_labels(condition, labels),
        "metric": metric.name,
        "mean": round(mean, 6),
        "sd": 2 * half,
        "ci_low": round(mean - half, 6),
        "ci_high": round(mean + half, 6),
        "n_prompts": N,
        "n_apart": N - 1,
        "degenerate": False,
        "judge": metric.judge,
    }


def _comparison(condition: Sequence[str], metric: RunMetric, labels: Sequence[str]) -> dict[str, Any]:
    delta, half = (
        _mean(condition, metric, 0.0) - _mean(("second", "none", "0"), metric, 0.0),
        0.005 if metric.of else 3.0,
    )
    return {
        "experiment": "transfer",
        "split": "test",
        **_labels(condition, labels),
        "metric": metric.name,
        **{f"vs_{name}": value for name, value in _labels(("second", "none", "0"), labels).items()},
        "delta": round(delta, 6),
        "ci_low": round(delta - half, 6),
        "ci_high": round(delta + half, 6),
        "n_prompts": N,
        "n_apart": N - 1,
        "degenerate": False,
        "p": 0.001,
        "p_holm": 0.011,
        "pairing_gain": 0.2,
    }
