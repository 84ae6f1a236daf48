"""What a reader has to know before leaning on a run's figures: what its experiments say, and what its tables show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from steerkit.report.rows import Row
from steerkit.report.run import Run
from steerkit.stats.intervals import ENOUGH, ENOUGH_APART

GUIDE = "docs/statistics.md"
HEAD = 70
"""Characters of a caution's first words, which stand on the first screen."""


def cautions(run: Run) -> list[str]:
    """Each caution once, in full: those of the experiments, then those that follow from the run's tables."""
    own = [line for part in run.parts for line in part.findings.cautions]
    return list(dict.fromkeys([*own, *_few(run), *_tables(run)]))


def heads(lines: Sequence[str]) -> list[str]:
    """The first words of each caution: up to its colon or the end of its first sentence."""
    return list(dict.fromkeys(_head(line) for line in lines))


def _head(line: str) -> str:
    short = min((line.split(mark)[0] for mark in (": ", ". ")), key=len).rstrip(".")
    return short if len(short) <= HEAD else short[: HEAD - 1].rstrip() + "…"


def _few(run: Run) -> Iterator[str]:
    counts = [claim.n for part in run.parts for claim in part.findings.claims if claim.kind == "claim" and claim.n]
    if counts and min(counts) < ENOUGH:
        prompts = "1 prompt" if min(counts) == 1 else f"{min(counts)} prompts"
        yield (
            f"Few prompts: a claim rests on {prompts}. With fewer than {ENOUGH}, an interval can miss the true value "
            f"more often than its level says ({GUIDE})."
        )


def _tables(run: Run) -> Iterator[str]:
    conditions = [row for row in run.results.rows if row["split"] == "test"]
    differences = list(run.comparisons.rows)
    lost = [row for row in conditions if row["mean"] is None]
    if lost:
        yield (
            f"No value for {_of(lost, conditions, 'condition')}: every text is empty, or a text broke off "
            "(log.jsonl says which). Figures leave them out."
        )
    few = [row for row in differences if 0 < (row["n_apart"] or 0) < ENOUGH_APART <= (row["n_prompts"] or 0)]
    if few:
        yield (
            f"Few prompts that differ: in {_of(few, differences, 'paired difference')}, fewer than {ENOUGH_APART} "
            f"prompts have another value than the commonest one. Such an interval can miss the true value more often "
            f"than its level says ({GUIDE})."
        )
    for rows, what in ((conditions, "condition"), (differences, "paired difference")):
        flat = [row for row in rows if row["degenerate"] is True]
        if flat:
            yield (
                f"Degenerate intervals: {_of(flat, rows, what)}: every prompt has the same value. Such an interval "
                "is that value itself and says nothing about other prompts."
            )


def _of(some: Sequence[Row], rows: Sequence[Row], what: str) -> str:
    """``3 of 40 conditions (each with a metric)``."""
    return f"{len(some):,} of {len(rows):,} {what}s (counted for each metric)"
