"""Facts of directions as a section of the page: a table by model and block, cosines, and a figure by block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from steerkit.findings import Figure, Findings, Lines, Series, Table
from steerkit.report import words

Row = dict[str, Any]
GUIDE = "docs/statistics.md"


def findings_of(rows: Sequence[Row], pairs: Sequence[Row], level: str) -> Findings:
    """The section.

    Args:
        rows: a row a model and layer.
        pairs: a row a pair of directions and layer.
        level: of the intervals, ``95 %``.
    """
    return Findings(
        title="The directions",
        question="Is a direction more than noise, more than its traces, and what does it tell beforehand?",
        figures=_figures(rows, level),
        tables=tuple(table for table in (_facts(rows, level), _cosines(pairs)) if table.rows),
        notes=(
            "Reliability: the cosine that a direction would have with one of as many other traces, 2c / (1 + c) of the "
            "cosine c that two halves of the traces give; median over ways to halve them, whole traces together.",
            "Shuffled labels: the direction's cosine with those that the same fitter gives where the label's spans are "
            "drawn at random, within each trace or over all. A direction that is much like the first kind is one of "
            "its traces, by as much as the first kind is long beside it; the second is the scale that cosines with it "
            "are to be read on.",
            "AUROC: the chance that the window before a span with the label lies further along the direction than "
            "that before another span, on traces that the direction is not fitted to; in the trace: each trace's mean "
            "taken off, so that only what differs within it tells, among it how late in it a window is. Bootstrap "
            f"intervals over traces ({GUIDE}).",
        ),
    )


def _facts(rows: Sequence[Row], level: str) -> Table:
    headings = (
        "vector of",
        "block",
        "reliability",
        "largest coordinate, % of squared length",
        "cosine with labels shuffled within traces",
        "length of these, share of its own",
        "cosine with labels shuffled over traces",
        f"AUROC, {level} interval",
        f"AUROC in the trace, {level} interval",
    )
    made = tuple(
        (
            f"{row['source']} ({row['label']})",
            words.short(row["layer"]),
            _three(row, "reliability"),
            words.percent(row["top_share"]),
            _three(row, "cos_within"),
            _three(row, "length_within"),
            _three(row, "cos_over"),
            _with_interval(row, "auroc"),
            _with_interval(row, "auroc_in_trace"),
        )
        for row in rows
    )
    n = max((int(row.get("n_traces") or 0) for row in rows), default=0)
    more = f" AUROC over {words.number(n)} traces that have windows." if n else ""
    note = f"In brackets behind medians: least and most.{more}"
    return Table(headings=headings, rows=made, left=2, title="Each direction, block by block", note=note)


def _cosines(pairs: Sequence[Row]) -> Table:
    headings = ("direction", "and", "block", "cosine", "95 % of shuffled ones lie within ±", "beyond so many of them")
    made = tuple(
        (
            row["one"],
            row["other"],
            words.short(row["layer"]),
            words.number(row["cosine"], 2),
            words.number(row.get("chance_95"), 2),
            f"{row['beyond']} of {row['draws']}" if "draws" in row else words.NOTHING,
        )
        for row in pairs
    )
    note = (
        "Shuffled: cosines of the first direction with those of labels shuffled over all traces, in the second's model."
    )
    return Table(headings=headings, rows=made, left=3, title="How alike directions are", note=note, folded=True)


def _three(row: Row, name: str) -> str:
    """Median, least and most."""
    if words.missing(row.get(name)):
        return words.NOTHING
    least, most = (words.number(row[f"{name}_{end}"], 2) for end in ("least", "most"))
    return f"{words.number(row[name], 2)} [{least}, {most}]"


def _with_interval(row: Row, name: str) -> str:
    if words.missing(row.get(name)):
        return words.NOTHING
    low, high = (words.number(row[f"{name}_{end}"], 2) for end in ("low", "high"))
    return f"{words.number(row[name], 2)} [{low}, {high}]"


def _figures(rows: Sequence[Row], level: str) -> tuple[Figure, ...]:
    """By block: reliability and cosines with shuffled labels; AUROC over and in traces. None of a single block."""
    if len({row["layer"] for row in rows}) < 2:
        return ()
    sources = list(dict.fromkeys(str(row["source"]) for row in rows))
    panels = []
    for title, ylabel, columns, level_at in (
        (
            "Reliability, and cosine with shuffled labels (median, least to most)",
            "cosine",
            {"reliability": "reliability", "cos_within": "shuffled within traces", "cos_over": "shuffled over traces"},
            0.0,
        ),
        (
            f"Does it tell the label beforehand? ({level} intervals)",
            "AUROC",
            {"auroc": "over all traces", "auroc_in_trace": "in the trace"},
            0.5,
        ),
    ):
        lines = []
        for number, source in enumerate(sources):
            own = [row for row in rows if row["source"] == source]
            for index, (column, name) in enumerate(columns.items()):
                if any(not words.missing(row.get(column)) for row in own):
                    look = index * len(sources) + number
                    lines.append(_line(own, column, f"{source}: {name}" if len(sources) > 1 else name, look))
        if lines:
            panels.append(
                Lines(title=title, xlabel="block (0-based)", ylabel=ylabel, series=tuple(lines), level=level_at)
            )
    if not panels:
        return ()
    caption = (
        "Above, how much of a direction comes back from other traces, and how much from labels shuffled within each "
        "trace or over all. Below, how well the place along it tells windows before the label from others, on traces "
        "that it is not fitted to."
    )
    return (Figure(name="directions", title="The directions", caption=caption, panels=tuple(panels), columns=1),)


def _line(rows: Sequence[Row], column: str, name: str, look: int) -> Series:
    ends = ("_least", "_most") if f"{column}_least" in rows[0] else ("_low", "_high")
    low, high = (
        tuple(None if words.missing(row.get(f"{column}{end}")) else float(row[f"{column}{end}"]) for row in rows)
        for end in ends
    )
    return Series(
        name=name,
        x=tuple(float(row["layer"]) for row in rows),
        y=tuple(None if words.missing(row.get(column)) else float(row[column]) for row in rows),
        low=low,
        high=high,
        look=look,
    )
