"""What a reader has to know about an experiment's intervals before leaning on them."""

from __future__ import annotations

from collections.abc import Sequence

from steerkit.findings import Claim
from steerkit.stats.intervals import ENOUGH, ENOUGH_APART
from steerkit.steps.generations import breaks
from steerkit.steps.results import Results

GUIDE = "docs/statistics.md"


def cautions_of(results: Results, claims: Sequence[Claim]) -> list[str]:
    """Broken texts, too few prompts or prompts that differ, constant data."""
    return [*_broken(results), *_few(claims), *_few_apart(results), *_degenerate(results)]


def _broken(results: Results) -> list[str]:
    return [
        f"Broken texts: {line}. Figures of this condition are left out, also those of its other texts."
        for line in breaks(results.generations)
    ]


def _few(claims: Sequence[Claim]) -> list[str]:
    n = min((claim.n for claim in claims if claim.n and claim.kind == "claim"), default=ENOUGH)
    if n >= ENOUGH:
        return []
    prompts = "1 prompt" if n == 1 else f"{n} prompts"
    return [
        f"Few prompts: a claim rests on {prompts}. Below {ENOUGH} an interval can hold the truth less often than "
        f"its level says ({GUIDE})."
    ]


def _few_apart(results: Results) -> list[str]:
    found = [row for row in results.comparisons if 0 < row["n_apart"] < ENOUGH_APART <= row["n_prompts"]]
    if not found:
        return []
    return [
        f"Few prompts that differ: in {len(found):,} of {len(results.comparisons):,} comparisons fewer than "
        f"{ENOUGH_APART} prompts have two different values. Such an interval can hold the truth less often than its "
        f"level says ({GUIDE})."
    ]


def _degenerate(results: Results) -> list[str]:
    lines = []
    for what, rows in (("conditions", results.rows), ("differences", results.comparisons)):
        flat = [row for row in rows if row["degenerate"] is True]
        if flat:
            lines.append(
                f"Degenerate: {len(flat):,} of {len(rows):,} {what} (by metric) have the same value on every prompt. "
                "Their interval is that value itself, and says nothing about other prompts."
            )
    return lines
