"""How well two judges agree, by steering strength (table C.1)."""

from __future__ import annotations

from steerkit.interfaces import Metric
from steerkit.report import style, words
from steerkit.report.finding import Claim
from steerkit.report.run import Row, Run, select
from steerkit.report.style import Look
from steerkit.report.tabulate import Table

SHARE = Metric("agreement", "share of sentences", (0.0, 1.0), "up")
METRICS = ("precision", "recall", "f1")
NAMES = {"precision": "precision", "recall": "recall", "f1": "F1"}
LOOKS = (Look(style.BLUE, "o", "-"), Look(style.ORANGE, "s", "--"), Look(style.BLACK, "D", ":"))


def draw(run: Run) -> None:
    """Precision, recall and F1 of the fitted label against strength."""
    with style.figure(run, "agreement", 5.4, 3.4) as made:
        ax = made.subplots()
        rows = select(run.csv("agreement.csv"), label=run.label)
        strengths = sorted({row["group"] for row in rows})
        for shift, metric, look in zip((-0.06, 0.0, 0.06), METRICS, LOOKS, strict=True):
            own = sorted(select(rows, metric=metric), key=lambda row: row["group"])
            shown = [{**row, "mean": row["value"]} for row in own]
            style.series(
                ax, shown, [strengths.index(row["group"]) for row in own], look, NAMES[metric], SHARE, shift=shift
            )
        ax.set_xticks(range(len(strengths)), [words.short(s) for s in strengths])
        style.panel(ax, f"sentences judged {run.label}", SHARE, "strength")
        ax.set_ylabel("%")
        style.legend(made, ax, 3)
        n = max((int(row["n_traces"]) for row in rows), default=0)
        what = f"{rows[0]['judge']} against {rows[0]['reference']}" if rows else ""
        made.suptitle(f"{what}: {n} test prompts, {run.level} intervals", fontsize=10, x=0.01, ha="left")


def agreement_table(run: Run) -> Table:
    """A row a strength."""
    rows = run.csv("agreement.csv")
    made = []
    for strength in dict.fromkeys(row["group"] for row in rows):
        own = {(row["metric"], row["label"]): row for row in select(rows, group=strength)}
        label = own.get(("f1", run.label))
        counts = [words.number(label[name]) for name in ("n_reference", "n_judge", "n_both")] if label else ["", "", ""]
        shares = [_share(own.get((metric, run.label))) for metric in METRICS]
        rest = [_number(own.get((metric, None))) for metric in ("cohen_kappa", "krippendorff_alpha")]
        sentences = words.number(next(iter(own.values()))["n_units"])
        made.append((words.short(strength), *shares, *rest, sentences, *counts))
    names = (_name(rows, "reference"), _name(rows, "judge"))
    headings = (
        "strength",
        "precision, %",
        "recall, %",
        "F1, %",
        "Cohen's κ",
        "Krippendorff's α",
        "sentences",
        f"{run.label} by {names[0]}",
        f"by {names[1]}",
        "by both",
    )
    return Table(headings, made, 1)


def _name(rows: list[Row], column: str) -> str:
    return str(next((row[column] for row in rows if row[column] and row["metric"] == "f1"), ""))


def _share(row: Row | None) -> str:
    if row is None or words.missing(row["value"]):
        return words.NOTHING
    return f"{words.percent(row['value'])} {words.interval(row['ci_low'], row['ci_high'])}"


def _number(row: Row | None) -> str:
    if row is None or words.missing(row["value"]):
        return words.NOTHING
    return f"{words.number(row['value'], 2)} [{words.number(row['ci_low'], 2)}, {words.number(row['ci_high'], 2)}]"


def agreement_lines(run: Run) -> list[Claim]:
    """F1 without steering and at the highest strength."""
    rows = select(run.csv("agreement.csv"), label=run.label, metric="f1")
    rows = sorted((row for row in rows if not words.missing(row["value"])), key=lambda row: row["group"])
    if not rows:
        return []
    first, last = rows[0], rows[-1]
    text = (
        f"F1 of the {first['judge']} judge against the {first['reference']} judge: {_share(first)} % at strength "
        f"{words.short(first['group'])}, {_share(last)} % at {words.short(last['group'])}"
    )
    return [Claim(kind="beside", text=text, detail=f"{run.level} intervals, over prompts")]
