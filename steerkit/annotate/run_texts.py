"""Everything in a run that can be labelled: its texts, and their spans."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from steerkit.annotate.generations import generation_files, generation_texts
from steerkit.annotate.judged_generations import judged_generations
from steerkit.annotate.tasks import Text
from steerkit.data.chats import as_text
from steerkit.data.trace import Span, Trace, read_rows


def run_texts(run: Path) -> dict[str, Text]:
    """Every text of a run that can have spans, by id: traces and generations."""
    found: dict[str, Text] = {}
    if (run / "traces.jsonl").is_file():
        traces = read_rows(run / "traces.jsonl", Trace)
        found = {trace.id: Text(text=trace.text, prompt=as_text(trace.prompt)) for trace in traces}
    if generation_files(run):
        found |= generation_texts(run)
    return found


def run_spans(run: Path, ids: Collection[str]) -> list[Span]:
    """The run's own spans of these texts."""
    path = run / "spans.jsonl"
    found = [span for span in read_rows(path, Span) if span.trace_id in ids] if path.is_file() else []
    if generation_files(run) and set(ids) - {span.trace_id for span in found}:
        found += [span for span in judged_generations(run) if span.trace_id in ids]
    return found
