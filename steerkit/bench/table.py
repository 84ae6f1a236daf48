"""Results as a table: on the screen, and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from steerkit.bench.measure import Result

HEADS = ("what", "ratio", "95 %", "goal", "")


def cells(found: Result) -> tuple[str, ...]:
    """A result's row."""
    goal = f"{'≥' if found.least else '≤'} {figure(found.goal)}"
    held = "holds" if found.holds else "does not hold"
    return found.name, figure(found.ratio), f"{figure(found.low)} to {figure(found.high)}", goal, held


def figure(value: float) -> str:
    """Three digits, or a power of ten for the very small."""
    if value and abs(value) < 0.001:
        return f"{value:.0e}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}" if abs(value) < 2 else f"{value:.2f}"


def text_table(results: Sequence[Result]) -> str:
    """Columns as wide as they need to be."""
    rows = [HEADS, *map(cells, results)]
    wide = [max(len(row[i]) for row in rows) for i in range(len(HEADS))]
    lines = []
    for row in rows:
        columns = enumerate(zip(row, wide, strict=True))
        lines.append("  ".join(cell.ljust(w) if i in (0, 4) else cell.rjust(w) for i, (cell, w) in columns))
    return "\n".join(line.rstrip() for line in lines)


def markdown_table(results: Sequence[Result]) -> str:
    """The same for a page, each with its note."""
    heads = ("what", "ratio", "95 % interval", "goal", "", "how")
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for found in results:
        note = "; ".join(part for part in (found.note, f"{found.rounds} rounds", found.machine) if part)
        lines.append("| " + " | ".join((*cells(found), note)) + " |")
    return "\n".join(lines)
