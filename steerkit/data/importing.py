"""Traces and spans of files: steerkit's own, or published ones with texts and tagged annotations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from steerkit.data.annotation import Aligned, align, parse_tagged
from steerkit.data.chats import is_text
from steerkit.data.drafts import after_draft
from steerkit.data.rows import chat_of, text_of
from steerkit.data.trace import Prompt, Span, Trace, numbered_rows, read_jsonl
from steerkit.errors import InputError, Problem, SteerkitError

Encode = Callable[[Prompt, str], Trace]


@dataclass(frozen=True)
class ImportedSpans:
    """Spans of a file, and what happened on the way.

    Attributes:
        coverage: trace id → share of its characters, answer included, that its annotation covers; empty for
            steerkit's own spans.
        left_out: ids of traces under the asked coverage; none of their spans is there.
        notes: every count; empty for steerkit's own spans.
    """

    spans: list[Span]
    coverage: dict[str, float] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict)


def read_traces(path: Path, encode: Encode) -> list[Trace]:
    """Traces of a file: steerkit's own, or rows with `trace` and a `prompt` (a text, or messages) or `messages`.

    Where `messages` end with an assistant's, and there is no `trace`, that message is the trace.

    Args:
        encode: makes a Trace of a text; also of steerkit's own rows that no tokenizer has seen yet.

    Raises:
        InputError: malformed lines, and prompts that the encoder can't take, by number.
        SteerkitError: an id twice, or nothing in it.
    """
    problems: list[Problem] = []
    rows = read_jsonl(path, problems, keep_numbers=True)
    found: dict[int, Trace] = {}
    makers: dict[int, Callable[[], Trace]] = {}
    if any(isinstance(row, dict) and "prompt_ids" in row for _, row in rows):
        makers = {number: partial(_encoded, trace, encode) for number, trace in numbered_rows(path, Trace).items()}
    else:
        for number, row in rows:
            prompt, text, wrong = _published(row, number)
            problems += [Problem(f"{path}:{number}", what) for what in wrong]
            if not wrong:
                makers[number] = partial(encode, prompt, text)
    for number, make in makers.items():
        try:
            found[number] = make()
        except SteerkitError as error:
            problems.append(Problem(f"{path}:{number}", str(error)))
    if problems:
        raise InputError(str(path), problems)
    if not found:
        raise SteerkitError(f"{path}: holds no traces; each line is a JSON object with 'prompt' and 'trace'")
    seen: dict[str, int] = {}
    for number, trace in found.items():
        if trace.id in seen:
            raise SteerkitError(f"{path}:{number}: the trace id {trace.id!r} stands in line {seen[trace.id]} already")
        seen[trace.id] = number
    return list(found.values())


def read_spans(
    path: Path,
    traces: Sequence[Trace],
    labels: Collection[str],
    *,
    judge: str = "annotation",
    min_coverage: float = 0.0,
) -> ImportedSpans:
    """Spans of a file, steerkit's own or tagged annotations (rows with `id` and `annotated`).

    Spans are placed by their characters: tokens that the file names are those of whoever wrote it.
    Annotations are of the whole text; spans in the answer behind the reasoning are counted, and left out. The draft
    that a reasoning model wrote before its annotation is no part of it.

    Args:
        labels: those that annotations may use; sections with another are rejected and counted.
        judge: name of the annotator.
        min_coverage: a trace less covered by its annotation than this is left out.

    Raises:
        InputError: malformed lines, spans out of range, a span or a trace labelled twice by one judge.
        SteerkitError: spans of traces that aren't there.
    """
    problems: list[Problem] = []
    rows = read_jsonl(path, problems, keep_numbers=True)
    by_id = {trace.id: trace for trace in traces}
    keys = {key for _, row in rows if isinstance(row, dict) for key in row}
    if "annotated" not in keys:
        if rows and not problems and "trace_id" not in keys:
            raise SteerkitError(
                f"{path}: holds neither annotations (rows with 'id' and 'annotated') nor spans (with 'trace_id')"
            )
        own = numbered_rows(path, Span)
        check_spans(path, own, by_id)
        return ImportedSpans([placed(s, by_id[s.trace_id]) for s in own.values()])
    aligned: dict[str, Aligned] = {}
    lines: dict[str, int] = {}
    for number, row in rows:
        name, wrong = _id(row, number)
        wrong = wrong or _wrong_annotation(row, name, by_id, lines)
        if wrong:
            problems.append(Problem(f"{path}:{number}", wrong))
            continue
        lines[name] = number
        text = by_id[name].text + by_id[name].answer_text
        annotated = after_draft(row["annotated"], text) or ""
        aligned[name] = align(text, parse_tagged(annotated, text), labels)
    if problems:
        raise InputError(str(path), sorted(problems, key=lambda p: int(p.where.rsplit(":", 1)[1])))
    coverage = {name: each.coverage for name, each in aligned.items()}
    left_out = tuple(name for name, share in coverage.items() if share < min_coverage)
    kept = {name: each for name, each in aligned.items() if name not in set(left_out)}
    thinking = {name: len(by_id[name].text) for name in kept}
    spans = [
        place(by_id[name], start, min(end, thinking[name]), label, judge)
        for name, each in kept.items()
        for start, end, label in each.spans
        if start < thinking[name]
    ]
    notes = _notes(aligned) | {
        "answer_spans": sum(len(each.spans) for each in kept.values()) - len(spans),
        "unannotated_traces": len(by_id) - len(aligned),
        "left_out_traces": len(left_out),
        "left_out_spans": sum(len(aligned[name].spans) for name in left_out),
    }
    return ImportedSpans(spans, coverage, left_out, notes)


def place(trace: Trace, start: int, end: int, label: str, judge: str) -> Span:
    """A Span of characters [start, end) of a trace's text."""
    first, last = trace.token_span(start, end)
    return Span(trace_id=trace.id, label=label, judge=judge, start=start, end=end, first=first, last=last)


def placed(span: Span, trace: Trace) -> Span:
    """The span with the tokens that its characters have in the trace."""
    return place(trace, span.start, span.end, span.label, span.judge)


def check_spans(path: Path, spans: Mapping[int, Span], traces: Mapping[str, Trace]) -> None:
    """Spans (by line number) against the traces they are of.

    Raises:
        InputError: spans out of range, or labelled twice by one judge.
        SteerkitError: spans of traces that aren't there.
    """
    lost = sorted({span.trace_id for span in spans.values()} - set(traces))
    if lost:
        raise SteerkitError(f"{path}: has spans of {len(lost)} traces that aren't there, the first {lost[0]!r}")
    problems = []
    seen: dict[tuple[str, str, int, int], int] = {}
    for number, span in spans.items():
        wrong = _out_of_range(span, traces[span.trace_id])
        before = seen.setdefault((span.judge, span.trace_id, span.start, span.end), number)
        if before != number:
            wrong = f"{span.judge!r} labels a span that it labels in line {before} too; judges need names that differ"
        if wrong:
            problems.append(Problem(f"{path}:{number}", wrong))
    if problems:
        raise InputError(str(path), problems)


def _out_of_range(span: Span, trace: Trace) -> str:
    if not 0 <= span.start < span.end <= len(trace.text):
        return f"characters [{span.start}, {span.end}) are not a part of trace {trace.id!r} ({len(trace.text)} long)"
    return ""


def _encoded(trace: Trace, encode: Encode) -> Trace:
    if trace.ids or not trace.text + trace.answer_text:
        return trace
    found = encode(Prompt(id=trace.id, prompt=trace.prompt), trace.text + trace.answer_text)
    return replace(found, prompt_id=trace.prompt_id, finished=trace.finished)


def _published(row: Any, number: int) -> tuple[Prompt, str, list[str]]:
    """Prompt and text of a row that is not steerkit's own, and what is wrong with it."""
    if not isinstance(row, dict):
        return Prompt(id="", prompt=""), "", ["needs a 'prompt' and the text 'trace'"]
    text, messages = row.get("trace"), row.get("messages")
    if text is None and row.get("prompt") is None and isinstance(messages, list) and messages:
        last = messages[-1]
        if isinstance(last, dict) and last.get("role") == "assistant":
            text, row = last.get("content"), {**row, "messages": messages[:-1]}
    chat, wrong = chat_of(row)
    name, problem = _id(row, number)
    wrong += [problem] if problem else []
    if not is_text(text):
        wrong.append("has no text under 'trace'")
    return Prompt(id=name, prompt=chat), str(text), wrong


def _id(row: Any, number: int) -> tuple[str, str]:
    """A row's id as text, numbered where it has none; and what is wrong with it."""
    try:
        return text_of(row.get("id") if isinstance(row, dict) else None) or f"t{number:05d}", ""
    except ValueError as error:
        return "", f"'id' {error}"


def _wrong_annotation(row: Any, name: str, traces: Mapping[str, Trace], lines: Mapping[str, int]) -> str:
    if not isinstance(row, dict) or not is_text(row.get("annotated")):
        return "needs an 'annotated' text and the 'id' of a trace"
    if row.get("id") is None and "trace" not in row:
        return "needs the 'id' of the trace that it annotates"
    if name not in traces:
        return f"annotates {name!r}, which is none of the {len(traces)} traces"
    if name in lines:
        return f"annotates {name!r}, as line {lines[name]} does; a file holds one annotator's work"
    return ""


def _notes(aligned: Mapping[str, Aligned]) -> dict[str, Any]:
    found = list(aligned.values())
    spans = sum(len(each.spans) for each in found)
    edited = sum(each.edited for each in found)
    return {
        "annotated_traces": len(found),
        "mean_coverage": sum(each.coverage for each in found) / len(found) if found else 0.0,
        "exact_spans": spans - edited,
        "edited_spans": edited,
        "unlocated_spans": sum(each.unlocated for each in found),
        "overlapping_spans": sum(each.overlapping for each in found),
        "misplaced_spans": sum(each.misplaced for each in found),
        "rejected_spans": dict(sum((each.rejected for each in found), Counter[str]())),
        "empty_spans": sum(each.empty for each in found),
    }
