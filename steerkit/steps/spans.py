"""Spans: the labelled sentences of the traces, by a judge or from a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from steerkit import registry
from steerkit.context import Run
from steerkit.data.importing import place, read_spans
from steerkit.data.trace import Span, Trace, read_rows, write_rows
from steerkit.errors import SteerkitError
from steerkit.interfaces import Config
from steerkit.judging import ask as judging
from steerkit.parts import Step
from steerkit.settings import Fitting, Labelling
from steerkit.store.files import write_json

FILES = ("spans.jsonl", "spans.notes.json")


class SpansConfig(Config):
    file: str | None = None
    """jsonl of labelled spans to use in place of the judge's: steerkit's own, or rows with id and annotated (tagged
    text), which is aligned to the traces."""
    annotation_labels: tuple[str, ...] | None = None
    """Labels that annotations in `file` may use (others are rejected and counted); the span judge's when left out."""
    min_coverage: float = Field(default=0.0, ge=0, le=1)
    """Share of a trace's characters that its annotation must cover; the spans of others are left out and counted."""

    def reads(self) -> Mapping[str, Sequence[Path]]:
        return {"file": [Path(self.file)]} if self.file else {}


class Spans(Step):
    """Labelled spans of the traces; what was dropped on the way goes to ``spans.notes.json``."""

    Config = SpansConfig
    uses = (Labelling,)

    def needs(self, run: Run) -> Sequence[str]:
        return ("traces",)

    def depends(self, run: Run, traces: list[Trace]) -> Any:
        return fitted_label(run)

    def make(self, run: Run, traces: list[Trace]) -> tuple[list[Span], dict[str, Any]]:
        spec = run.use(Labelling).span_judge
        found, notes = self._imported(run, traces) if self.config.file else judged(run, traces)
        check_positives(found, fitted_label(run), traces, self.config.file or spec.name)
        notes = {"labels": dict(Counter(span.label for span in found).most_common()), **notes}
        run.log(spans=len(found), **notes)
        return found, notes

    def _imported(self, run: Run, traces: list[Trace]) -> tuple[list[Span], dict[str, Any]]:
        c = self.config
        legal = c.annotation_labels or registry.build("judges", run.use(Labelling).span_judge).labels()
        imported = read_spans(Path(c.file), traces, legal, min_coverage=c.min_coverage)
        judges = sorted({span.judge for span in imported.spans})
        if len(judges) > 1:
            raise SteerkitError(
                f"{c.file}: holds spans of {len(judges)} judges ({', '.join(judges)}), which can't be counted "
                "together; give a file with one judge's rows (people's: `steerkit annotate RUN --export FILE "
                "--annotator NAME`)"
            )
        return imported.spans, imported.notes

    def save(self, run: Run, value: tuple[list[Span], dict[str, Any]]) -> Sequence[str]:
        write_rows(run.folder / FILES[0], value[0])
        write_json(run.folder / FILES[1], value[1])
        return FILES

    def load(self, run: Run) -> tuple[list[Span], dict[str, Any]]:
        return read_rows(run.folder / FILES[0], Span), {}


def fitted_label(run: Run) -> str:
    """The label that the vector is fitted to."""
    return str(registry.build("fitters", run.peek(Fitting).fitter).config.label)


def judged(run: Run, traces: Sequence[Trace]) -> tuple[list[Span], dict[str, Any]]:
    """The span judge's labels, and its notes. What it has no label for is a span too (`other`): D is every one."""
    spec = run.use(Labelling).span_judge
    judge = run.judge(spec)
    texts = [trace.text for trace in traces]
    if estimate := judge.estimate(texts):
        run.log(judge=judge.name, estimate=estimate)
    found = judging.annotate_traces(judge, traces)
    return [
        place(trace, start, end, label, spec.name)
        for trace, spans in zip(traces, found, strict=True)
        for start, end, label in spans
    ], judge.notes()


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
