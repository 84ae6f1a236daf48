"""Spans: the labelled sentences of the traces, by a judge or from a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.data.importing import place, read_spans
from steerkit.data.trace import Span, Trace, read_rows, write_rows
from steerkit.errors import SteerkitError
from steerkit.judging import ask as judging
from steerkit.store.files import write_json

if TYPE_CHECKING:
    from steerkit.run import SteeringTrainer

FILES = ["spans.jsonl", "spans.notes.json"]


def spans(trainer: SteeringTrainer, traces: Sequence[Trace]) -> list[Span]:
    """Labelled spans of the traces; what was dropped on the way goes to ``spans.notes.json``."""
    args, path = trainer.args, trainer.folder / FILES[0]
    label = trainer.fitter.config.label

    def make(key: str) -> tuple[list[Span], list[str]]:
        notes: dict[str, Any] = {}
        if args.spans:
            legal = args.annotation_labels or trainer.span_judge.labels()
            imported = read_spans(Path(args.spans), traces, legal, min_coverage=args.min_coverage)
            found, notes = imported.spans, imported.notes
            judges = sorted({span.judge for span in found})
            if len(judges) > 1:
                raise SteerkitError(
                    f"{args.spans}: holds spans of {len(judges)} judges ({', '.join(judges)}), which can't be counted "
                    "together; give a file with one judge's rows (people's: `steerkit annotate RUN --export FILE "
                    "--annotator NAME`)"
                )
        else:
            found, notes = judge_spans(trainer, traces)
        check_positives(found, label, traces, args.spans or args.span_judge.name)
        write_rows(path, found)
        notes = {"labels": dict(Counter(span.label for span in found).most_common()), **notes}
        write_json(trainer.folder / FILES[1], notes)
        trainer.log(spans=len(found), **notes)
        return found, FILES

    inputs = [
        trainer.keys["traces"],
        trainer.identities["span_judge"],
        trainer.identities["spans"],
        args.annotation_labels,
        args.min_coverage,
        label,
    ]
    return trainer.stage("spans", inputs, make, lambda: read_rows(path, Span))


def judge_spans(trainer: SteeringTrainer, traces: Sequence[Trace]) -> tuple[list[Span], dict[str, Any]]:
    """The span judge's labels, and its notes. What it has no label for is a span too (`other`): D is every one."""
    texts = [trace.text for trace in traces]
    trainer.log_estimate(trainer.span_judge, texts)
    found = judging.annotate(trainer.span_judge, texts)
    return [
        place(trace, start, end, label, trainer.args.span_judge.name)
        for trace, spans in zip(traces, found, strict=True)
        for start, end, label in spans
    ], trainer.span_judge.notes()


def check_positives(spans: Sequence[Span], label: str, traces: Sequence[Trace], judge: str) -> None:
    """Raises: SteerkitError when no trace has the label that the vector is fitted to."""
    if any(span.label == label for span in spans):
        return
    counts = Counter(span.label for span in spans)
    seen = ", ".join(f"{name} {n}" for name, n in counts.most_common()) or "no label at all"
    raise SteerkitError(
        f"D₊ is empty: none of {len(traces)} traces has a span labelled {label!r} by {judge} (found: {seen}). "
        "Use more extraction prompts (prompts.extract), a higher temperature or max_new_tokens, "
        "another span_judge, or another fitter.label; the traces are kept"
    )
