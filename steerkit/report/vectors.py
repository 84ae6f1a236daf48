"""What the vector is: what it says under the unembeddings, how alike two are, and whether it detects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from steerkit.report import style, textgrid, words
from steerkit.report.finding import Claim
from steerkit.report.run import Row, Run, select
from steerkit.report.style import Look
from steerkit.report.tabulate import Table
from steerkit.report.texts import marks_of, pieces, shades_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOOKS = {
    ("base", "base"): Look(style.BLUE, "o", "-"),
    ("base", "reasoning"): Look(style.BLUE, "o", ":", hollow=True),
    ("reasoning", "base"): Look(style.VERMILLION, "s", "--"),
    ("reasoning", "reasoning"): Look(style.VERMILLION, "s", ":", hollow=True),
}


def draw_lens(run: Run) -> None:
    """s(v) by layer for two sources and two unembeddings, and the cosine of the two vectors."""
    rows, cosines = run.csv("lens.csv"), run.csv("cosines.csv")
    with style.figure(run, "lens", 7.6, 3.6) as made:
        left, right = made.subplots(1, 2, width_ratios=(3, 2))
        own = select(rows, source="base", unembedding="base")
        left.fill_between(
            [r["layer"] for r in own],
            [r["random_low"] for r in own],
            [r["random_high"] for r in own],
            color=style.GREY,
            alpha=0.15,
            lw=0,
            label="95 % of random directions (base unembedding)",
        )
        left.axhline(0, color=style.GREY, lw=0.8)
        for (source, unembedding), look in LOOKS.items():
            found = select(rows, source=source, unembedding=unembedding)
            label = f"{source}-derived, {unembedding} unembedding"
            _line(left, found, "score", look, label)
        left.set_title("logit-lens score s(v), Eq. 2")
        left.set_ylabel("mean keyword logit")
        _line(right, cosines, "cosine", Look(style.BLACK, "D", "-"), "")
        right.set_title("cosine of the two vectors")
        right.set_ylim(min(0, *(r["cosine"] for r in cosines)), 1.02)
        for ax in (left, right):
            ax.set_xlabel("block (0-based)")
            ax.axvline(run.layer, color=style.GREY, lw=0.8, ls=(0, (1, 2)))
            ax.xaxis.get_major_locator().set_params(integer=True)
        style.legend(made, left, 2)


def _line(ax: Axes, rows: Sequence[Row], column: str, look: Look, label: str) -> None:
    face = "white" if look.hollow else look.color
    ax.plot(
        [r["layer"] for r in rows],
        [r[column] for r in rows],
        color=look.color,
        marker=look.marker,
        linestyle=look.line,
        markerfacecolor=face,
        label=label,
    )


def lens_table(run: Run) -> Table:
    """A row a source, unembedding and layer, with the top tokens; the steered layer's are strong."""
    rows = run.csv("lens.csv")
    tokens = {_place(row): row["tokens"] for row in run.jsonl("lens.tokens.jsonl")}
    made = [
        (
            f"{row['source']}-derived",
            str(row["unembedding"]),
            words.short(row["layer"]),
            " ".join(repr(token) for token, _ in tokens.get(_place(row), ())),
            words.signed(row["score"]),
            f"{words.signed(row['random_low'])} to {words.signed(row['random_high'])}",
        )
        for row in rows
    ]
    strong = frozenset(i for i, row in enumerate(rows) if row["layer"] == run.layer)
    return Table(("vector", "unembedding", "block", "top tokens", "s(v)", "95 % of random"), made, 4, strong)


def _place(row: Row) -> tuple[str, str, int]:
    return row["source"], row["unembedding"], int(row["layer"])


def lens_lines(run: Run) -> list[Claim]:
    """s(v) of the base-derived vector at the steered layer against random directions."""
    found = []
    for row in select(run.csv("lens.csv"), source="base", layer=run.layer):
        low, high = row["random_low"], row["random_high"]
        where = "inside" if low <= row["score"] <= high else "above" if row["score"] > high else "below"
        text = (
            f"Logit-lens score of the base-derived vector under the {row['unembedding']} unembedding: "
            f"{words.signed(row['score'])} at block {run.layer}"
        )
        detail = f"{where} the 95 % of random directions of its length, {words.signed(low)} to {words.signed(high)}"
        found.append(Claim(kind="beside", text=text, detail=detail))
    return found


def draw_projection(run: Run) -> None:
    """One unsteered text shaded by projection, and the AUROC of backtracking to come."""
    rows, columns, width = run.csv("detection.csv"), 92, 8.2
    texts = run.jsonl("projections.jsonl")
    text = next((row for row in texts if row["begins"]), texts[0])
    marks = marks_of(run, [text["text"]])[0]
    marked = pieces(text["text"], [], marks or (), shades=shades_of(run).get(text["id"], ()))
    lines = textgrid.lines_of(marked, columns, 14)
    height = textgrid.inches(len(lines), width, columns)
    with style.figure(run, "projection", width + 0.4, height + 3.4) as made:
        top, ax = made.subplots(2, 1, height_ratios=(height, 3.0))
        textgrid.draw(top, lines, columns)
        boxed = "" if marks is None else f"; boxed: counted in {run.score.title}"
        top.set_title(f"v̂·(h − h̄) above 0, block {run.layer}: the darker, the higher{boxed}")
        known = [row for row in rows if not words.missing(row["auroc"])]
        at = list(range(len(known)))
        ax.plot(at, [r["auroc"] for r in known], color=style.BLUE, marker="o", clip_on=False)
        ends = [(x, r["ci_low"], r["ci_high"]) for x, r in enumerate(known) if not words.missing(r["ci_low"])]
        for x, low, high in ends:
            ax.vlines(x, low, high, color=style.BLUE, lw=1)
        ax.axhline(0.5, color=style.GREY, lw=1, ls=(0, (4, 2)))
        ax.set_xticks(at, [words.short(r["within"]) for r in known])
        if not known:
            ax.text(
                0.5,
                0.5,
                "no value: no token is followed by such a sentence, or every text is empty",
                transform=ax.transAxes,
                ha="center",
                color=style.GREY,
            )
        ax.set_ylim(min([0.3, *(low for _, low, _ in ends)]), max([0.8, *(high for _, _, high in ends)]))
        ax.set_xlabel("n: a sentence with the label begins within n tokens")
        ax.set_ylabel("AUROC")
        n = int(rows[0]["n_traces"])
        ax.set_title(f"Does the projection tell it beforehand? {n} unsteered test texts, {run.level} intervals")
        textgrid.fit(made, [top], columns)


def detection_table(run: Run) -> Table:
    """AUROC by tokens ahead."""
    made = [
        (
            words.short(row["within"]),
            words.number(row["auroc"], 3),
            f"[{words.number(row['ci_low'], 3)}, {words.number(row['ci_high'], 3)}]",
            words.number(row["n_hits"]),
            words.number(row["n_tokens"]),
            words.number(row["n_traces"]),
        )
        for row in run.csv("detection.csv")
    ]
    return Table(("within n tokens", "AUROC", f"{run.level} interval", "tokens before it", "tokens", "texts"), made, 0)


def projection_lines(run: Run) -> list[Claim]:
    """The AUROC nearest to the window's reach."""
    rows = [row for row in run.csv("detection.csv") if not words.missing(row["auroc"])]
    if not rows:
        return []
    row = min(rows, key=lambda r: abs(r["within"] + run.window[0]))
    text = (
        f"Projection as a detector: AUROC {words.number(row['auroc'], 2)} that a {run.label} sentence begins within "
        f"{words.short(row['within'])} tokens"
    )
    low, high = words.number(row["ci_low"], 2), words.number(row["ci_high"], 2)
    detail = f"{run.level} interval [{low}, {high}] over {words.number(row['n_traces'])} texts; 0.5 is chance"
    return [Claim(kind="beside", text=text, detail=detail)]
