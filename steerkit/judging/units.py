"""Judges brought onto the same units: the spans of the first one.

Another judge's label of a unit is the one that covers most of its characters; characters that it labels not at all
count as `other`. A judge that is asked live gets each unit's text, and `other` sentences beside a labelled one
don't count: a unit with a keyword in one of its sentences has the keyword judge's label.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from steerkit.data.importing import check_spans, read_traces
from steerkit.data.tokens import plain_trace
from steerkit.data.trace import Span, Trace, numbered_rows, read_jsonl
from steerkit.errors import InputError, Problem, SteerkitError
from steerkit.interfaces import OTHER, Judge
from steerkit.judging import ask as judging


class LabelFile(NamedTuple):
    """A file of spans, and the name that its one judge goes by; the spans' own when empty."""

    path: Path
    name: str = ""

    @classmethod
    def parse(cls, text: str) -> LabelFile:
        """`spans.jsonl`, or `alice=spans.jsonl`."""
        name, sign, path = text.partition("=")
        return cls(Path(path), name) if sign and name and not Path(text).exists() else cls(Path(text))


@dataclass(frozen=True)
class Labelled:
    """One judge's spans.

    Attributes:
        groups: group (a strength, say) of each span; empty strings when none was asked for.
    """

    judge: str
    spans: list[Span]
    groups: list[str]


def read_labelled(
    sources: Sequence[LabelFile], traces: Mapping[str, Trace] | None = None, by: str = ""
) -> dict[str, Labelled]:
    """Judge → its spans, in the order of the files.

    Args:
        traces: the traces that spans are checked against; unchecked when None.
        by: field of the rows that groups them.

    Raises:
        InputError: malformed lines, spans out of range, one judge's name on a span twice (both places named).
        SteerkitError: a name for a file of several judges, spans of traces that aren't there.
    """
    found: dict[str, Labelled] = {}
    seen: dict[tuple[str, str, int, int], str] = {}
    problems = []
    for source in sources:
        rows = numbered_rows(source.path, Span, extras=True)
        if traces is not None:
            check_spans(source.path, rows, traces)
        judges = sorted({span.judge for span in rows.values()})
        if source.name and len(judges) > 1:
            raise SteerkitError(
                f"{source.name}={source.path}: holds {len(judges)} judges' spans ({', '.join(judges)}), which one name "
                "can't stand for; give the file without a name"
            )
        groups = _groups(source.path, by) if by else {}
        for number, span in rows.items():
            judge, where = source.name or span.judge, f"{source.path}:{number}"
            before = seen.setdefault((judge, span.trace_id, span.start, span.end), where)
            if before != where:
                fix = "two annotators need two names: give their files as NAME=FILE"
                problems.append(Problem(where, f"judge {judge!r} labels a span that it labels at {before} too", fix))
            elif not 0 <= span.start < span.end:
                problems.append(Problem(where, f"characters [{span.start}, {span.end}) are no span"))
            else:
                own = found.setdefault(judge, Labelled(judge, [], []))
                own.spans.append(span)
                own.groups.append(groups.get(number, ""))
    if problems:
        raise InputError("spans", problems)
    return found


def read_texts(path: Path) -> dict[str, Trace]:
    """Traces by id, tokens aside."""
    return {trace.id: trace for trace in read_traces(path, lambda prompt, text: plain_trace(prompt, text, ""))}


def _groups(path: Path, by: str) -> dict[int, str]:
    rows = read_jsonl(path, [])
    return {number: str(row[by]) for number, row in rows if by in row}


def labels_on(units: Sequence[Span], spans: Sequence[Span]) -> list[str | None]:
    """A judge's label of each unit, None where none of its spans overlaps it."""
    by_trace: dict[str, list[Span]] = {}
    for span in sorted(spans, key=lambda s: (s.start, s.end)):
        by_trace.setdefault(span.trace_id, []).append(span)
    longest = {name: max(s.end - s.start for s in own) for name, own in by_trace.items()}
    found: list[str | None] = []
    for unit in units:
        own = by_trace.get(unit.trace_id, [])
        shares: Counter[str] = Counter()
        first = bisect_left(own, unit.start - longest.get(unit.trace_id, 0), key=lambda s: s.start)
        for index in range(first, len(own)):
            span = own[index]
            if span.start >= unit.end:
                break
            if span.end > unit.start:
                shares[span.label] += min(span.end, unit.end) - max(span.start, unit.start)
        if shares:
            shares[OTHER] += max(0, unit.end - unit.start - sum(shares.values()))
        found.append(max(shares, key=lambda label: shares[label]) if shares else None)
    return found


def labels_by(judge: Judge, texts: Sequence[str]) -> list[str | None]:
    """A judge's label of each text, asked live: the one, `other` aside, that covers most of its characters."""
    found: list[str | None] = []
    for spans in judging.annotate(judge, texts):
        shares: Counter[str] = Counter()
        for start, end, label in spans:
            if label != OTHER:
                shares[label] += end - start
        found.append(max(shares, key=lambda label: shares[label]) if shares else OTHER)
    return found
