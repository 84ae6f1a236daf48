"""What a reader has to know about a run's intervals before leaning on them."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from steerkit.report import words
from steerkit.report.finding import Claim
from steerkit.report.run import Row, Run, select
from steerkit.stats.intervals import ENOUGH, ENOUGH_APART, ENOUGH_POOLED

GUIDE = "docs/statistics.md"


def cautions(run: Run, claims: Sequence[Claim]) -> list[str]:
    """Broken and collapsed texts, too few prompts or texts, or that differ, constant data; what pairing is worth."""
    return [
        *_broken(run),
        *_few(claims),
        *_few_apart(run),
        *_few_pooled(run),
        *_degenerate(run),
        *_collapsed(run),
        *_pairing(run),
    ]


def _broken(run: Run) -> list[str]:
    from steerkit.steps.generations import FILE, breaks

    if all(row["mean"] is not None for row in run.results):  # so that large runs don't read all texts for nothing
        return []
    return [
        f"Broken texts: {line}. Figures of this condition are left out, also those of its other texts."
        for line in breaks(run.jsonl(FILE))
    ]


def _few(claims: Sequence[Claim]) -> list[str]:
    n = min((claim.n for claim in claims if claim.n), default=ENOUGH)
    if n >= ENOUGH:
        return []
    prompts = "1 prompt" if n == 1 else f"{n} prompts"
    return [
        f"Few prompts: a claim rests on {prompts}. Below {ENOUGH} an interval can hold the truth less often than "
        f"its level says ({GUIDE})."
    ]


def _few_apart(run: Run) -> list[str]:
    found = [row for row in _main(run) if 0 < row["n_apart"] < ENOUGH_APART <= row["n_prompts"]]
    if not found:
        return []
    each = ", ".join(f"{run.metric(row['metric']).title} {words.number(row['n_apart'])}" for row in found)
    return [
        f"Few prompts that differ, steered minus unsteered: {each}. With fewer than {ENOUGH_APART} the interval can "
        f"hold the truth less often than its level says ({GUIDE})."
    ]


def _few_pooled(run: Run) -> list[str]:
    tables = {"agreement of judges": "agreement.csv", "the projection's AUROC": "detection.csv"}
    fewest = {what: min((int(row["n_traces"]) for row in run.csv(name)), default=0) for what, name in tables.items()}
    each = ", ".join(f"{what} {n}" for what, n in fewest.items() if 0 < n < ENOUGH_POOLED)
    if not each:
        return []
    return [
        f"Few texts behind a pooled figure: {each}. Below {ENOUGH_POOLED} its bootstrap interval holds the truth less "
        f"often than its level says ({GUIDE})."
    ]


def _degenerate(run: Run) -> list[str]:
    lines = []
    for what, rows in (("conditions", select(run.results, split="test")), ("differences", run.comparisons)):
        flat = [row for row in rows if row["degenerate"] is True]
        if flat:
            lines.append(
                f"Degenerate: {len(flat):,} of {len(rows):,} {what} (by metric) have the same value on every prompt. "
                "Their interval is that value itself, and says nothing about other prompts."
            )
    return lines


def _collapsed(run: Run) -> list[str]:
    """Rates of words are the figures that one text which repeats a word can outweigh all others in."""
    counts = [int(row["n_collapsed"]) for row in run.main(run.score.name)[:1]]
    if not counts or not 0 < counts[0] < ENOUGH_APART or run.score.of not in ("words", "tokens"):
        return []
    return [
        f"{counts[0]} collapsed text{'s' * (counts[0] > 1)} at the chosen strength: where such a text repeats a word "
        f"that counts it outweighs all others, and no interval for the mean of {run.score.title} is good; the claims "
        "that count them as unsteered ones don't depend on them."
    ]


def _pairing(run: Run) -> list[str]:
    gains = {row["metric"]: row["pairing_gain"] for row in _main(run) if row["pairing_gain"] is not None}
    if not gains:
        return []
    every = [row["pairing_gain"] for row in run.comparisons if row["pairing_gain"] is not None]
    each = ", ".join(f"{_gain(gains[metric])} for {run.metric(metric).title}" for metric in gains)
    return [
        "Pairing, each prompt against itself with the same random numbers, makes an interval narrower or wider than "
        f"two independent sets of prompts would: steered minus unsteered, {each}; {_gain(median(every))} in the median "
        "of all comparisons."
    ]


def _main(run: Run) -> list[Row]:
    """The fitted vector against unsteered, at the chosen strength: a row a metric."""
    rows = select(
        run.comparisons,
        source="base",
        target="reasoning",
        method=run.fitter,
        layer=run.layer,
        pool="own",
        strength=run.strength,
        vs_method="none",
        vs_target="reasoning",
    )
    return [row for metric in run.metrics for row in select(rows, metric=metric.name)[:1]]


def _gain(gain: float) -> str:
    return f"{abs(100 * gain):.0f} % {'narrower' if gain >= 0 else 'wider'}"
