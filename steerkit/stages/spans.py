"""Spans: the labelled sentences of the traces, by a judge or from a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.annotation import align, parse_tagged
from steerkit.errors import InputError, Problem, SteerkitError
from steerkit.files import input_digest, write_json
from steerkit.trace import Span, Trace, read_jsonl, read_rows, write_rows

if TYPE_CHECKING:
    from steerkit.trainer import SteeringTrainer

FILES = ["spans.jsonl", "spans.notes.json"]


def spans(trainer: SteeringTrainer, traces: Sequence[Trace]) -> list[Span]:
    """Labelled spans of the traces; what was dropped on the way goes to ``spans.notes.json``."""
    args, path = trainer.args, trainer.folder / FILES[0]
    label = trainer.fitter.config.label

    def make(key: str) -> tuple[list[Span], list[str]]:
        notes: dict[str, Any] = {}
        if args.spans:
            legal = args.annotation_labels or trainer.span_judge.labels()
            found, notes = read_spans(Path(args.spans), traces, legal)
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
        args.span_judge.settings("judges"),
        input_digest(args.spans),
        args.annotation_labels,
        label,
    ]
    return trainer.stage("spans", inputs, make, lambda: read_rows(path, Span))


def place(trace: Trace, start: int, end: int, label: str, judge: str) -> Span:
    """A Span of characters [start, end) of a trace's text."""
    first, last = trace.token_span(start, end)
    return Span(trace_id=trace.id, label=label, judge=judge, start=start, end=end, first=first, last=last)


def judge_spans(trainer: SteeringTrainer, traces: Sequence[Trace]) -> tuple[list[Span], dict[str, Any]]:
    """The span judge's labels, and its notes. What it has no label for is a span too (`other`): D is every one."""
    texts = [trace.text for trace in traces]
    trainer.log_estimate(trainer.span_judge, texts)
    found = trainer.span_judge.annotate(texts)
    return [
        place(trace, start, end, label, trainer.args.span_judge.name)
        for trace, spans in zip(traces, found, strict=True)
        for start, end, label in spans
    ], trainer.span_judge.notes()


def read_spans(path: Path, traces: Sequence[Trace], labels: Sequence[str]) -> tuple[list[Span], dict[str, Any]]:
    """Spans of a file, steerkit's own or tagged annotations, and what happened on the way.

    Raises:
        InputError: malformed lines; spans of traces that aren't there.
    """
    problems: list[Problem] = []
    rows = read_jsonl(path, problems)
    by_id = {trace.id: trace for trace in traces}
    if not any(isinstance(row, dict) and "annotated" in row for _, row in rows):
        own = read_rows(path, Span)
        lost = sorted({span.trace_id for span in own} - set(by_id))
        if lost:
            raise SteerkitError(f"{path}: has spans of {len(lost)} traces that aren't there, the first {lost[0]!r}")
        return own, {}
    found: list[Span] = []
    rejected: Counter[str] = Counter()
    coverage, unlocated, empty = [], 0, 0
    for number, row in rows:
        trace = by_id.get(str(row.get("id", f"t{number:05d}"))) if isinstance(row, dict) else None
        if trace is None or not isinstance(row.get("annotated"), str):
            problems.append(Problem(f"{path}:{number}", "needs an 'annotated' text and the 'id' of a trace"))
            continue
        aligned = align(trace.text, parse_tagged(row["annotated"]), labels)
        found += [place(trace, a, b, label, "annotation") for a, b, label in aligned.spans]
        rejected += aligned.rejected
        coverage.append(aligned.coverage)
        unlocated += aligned.unlocated
        empty += aligned.empty
    if problems:
        raise InputError(str(path), problems)
    return found, {
        "annotated_traces": len(coverage),
        "mean_coverage": sum(coverage) / len(coverage) if coverage else 0.0,
        "unlocated_spans": unlocated,
        "rejected_spans": dict(rejected),
        "empty_spans": empty,
    }


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
