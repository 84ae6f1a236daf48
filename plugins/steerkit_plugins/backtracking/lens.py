"""Figure 5: what the vectors say under both unembeddings (Eq. 2), at every block, and how alike they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from steerkit.context import Run
from steerkit.data.words import with_a_word
from steerkit.findings import Band, Claim, Figure, Findings, Lines, Series, Table
from steerkit.interfaces import Config
from steerkit.parts import Experiment
from steerkit.report import words
from steerkit.settings import Steering
from steerkit.steps.vectors import Vectors
from steerkit.vectors.lens import LogitLens
from steerkit_plugins.backtracking.conditions import BASE, REASONING

BOTH = (BASE, REASONING)
Row = dict[str, Any]


class LensConfig(Config):
    words: tuple[Annotated[str, AfterValidator(with_a_word)], ...] = Field(default=("wait", "but"), min_length=1)
    """B of Eq. 2: the score is the mean logit of the tokens that contain one of these, in any case. Each must be in a
    token of the vocabulary, which phrases seldom are."""
    final_norm: bool = False
    """Send the vector through the model's final norm first."""
    top: int = Field(default=10, ge=1)
    """Tokens listed for each vector, the highest logits first."""


class Lens(Experiment):
    """Does the vector write words such as "wait" by itself, or does it work upstream of them?"""

    Config = LensConfig
    uses = (Steering,)

    def needs(self, run: Run) -> Sequence[str]:
        return ("vectors",)

    def models(self, run: Run) -> Sequence[str]:
        return BOTH

    def _question(self) -> str:
        return (
            f'Does the vector write words such as "{self.config.words[0]}" by itself, or does it work upstream of them?'
        )

    def findings(self, run: Run, results: None, vectors: Vectors) -> Findings:
        c, layer = self.config, run.use(Steering).layer
        rows: list[Row] = []
        tokens: list[Row] = []
        for unembedding in BOTH:
            reader = LogitLens(run.models[unembedding], c.words, final_norm=c.final_norm)
            for source in BOTH:
                vector = vectors[run.vector(source)]
                for at in vector.layers:
                    found = reader.score(vector.unit(at) * vector.norm(at), top=c.top, seed=run.seed)
                    place = {"source": source, "unembedding": unembedding, "layer": at}
                    figures = {"score": found.score, "random_low": found.low, "random_high": found.high}
                    rows.append({**place, **figures, "final_norm": c.final_norm, "norm": vector.norm(at)})
                    tokens.append({**place, "tokens": [[token, round(value, 4)] for token, value in found.top]})
        alike = vectors[run.vector(BASE)].cosine(vectors[run.vector(REASONING)])
        cosines = [{"layer": at, "cosine": value} for at, value in alike.items()]
        return Findings(
            title="What the vectors say in words",
            question=self._question(),
            claims=tuple(_line(row) for row in rows if (row["source"], row["layer"]) == (BASE, layer)),
            figures=(_figure(rows, cosines, layer),),
            tables=(_table(rows, tokens, layer),),
            data={"lens.csv": rows, "lens.tokens.jsonl": tokens, "cosines.csv": cosines},
        )


def _figure(rows: Sequence[Row], cosines: Sequence[Row], layer: int) -> Figure:
    own = [row for row in rows if (row["source"], row["unembedding"]) == (BASE, BASE)]
    band = Band(
        name="95 % of random directions (base unembedding)",
        low=tuple(row["random_low"] for row in own),
        high=tuple(row["random_high"] for row in own),
        x=tuple(float(row["layer"]) for row in own),
    )
    lines = []
    for look, source in ((0, BASE), (4, REASONING)):
        for unembedding in BOTH:
            found = [row for row in rows if (row["source"], row["unembedding"]) == (source, unembedding)]
            name = f"{source}-derived, {unembedding} unembedding"
            lines.append(_series(name, found, "score", look, hollow=unembedding == REASONING))
    block = "block (0-based)"
    left = Lines(
        title="logit-lens score s(v), Eq. 2",
        xlabel=block,
        ylabel="mean keyword logit",
        series=tuple(lines),
        band=band,
        level=0.0,
        mark=float(layer),
    )
    right = Lines(
        title="cosine of the two vectors",
        xlabel=block,
        ylabel="cosine",
        series=(_series("", cosines, "cosine", 6),),
        mark=float(layer),
        bounds=(min(0.0, *(row["cosine"] for row in cosines)), 1.02),
    )
    return Figure(
        name="lens",
        title="What the vectors say in words",
        caption="Left: the mean logit of keyword tokens when the vector, as long as strength 1 adds, is read by an "
        "unembedding. The grey band holds 95 % of random directions. Right: how alike the two vectors are. The "
        "dotted line is the steered block. No interval: these are single vectors.",
        panels=(left, right),
        columns=2,
        widths=(3.0, 2.0),
    )


def _series(name: str, rows: Sequence[Mapping[str, Any]], column: str, look: int, *, hollow: bool = False) -> Series:
    x, y = (tuple(float(row[key]) for row in rows) for key in ("layer", column))
    return Series(name=name, x=x, y=y, look=look, hollow=hollow)


def _table(rows: Sequence[Row], tokens: Sequence[Row], layer: int) -> Table:
    """A row a source, unembedding and block, with the top tokens; the steered block's are strong."""
    made = tuple(
        (
            f"{row['source']}-derived",
            str(row["unembedding"]),
            words.short(row["layer"]),
            " ".join(repr(token) for token, _ in top["tokens"]),
            words.signed(row["score"]),
            f"{words.signed(row['random_low'])} to {words.signed(row['random_high'])}",
        )
        for row, top in zip(rows, tokens, strict=True)
    )
    strong = frozenset(index for index, row in enumerate(rows) if row["layer"] == layer)
    headings = ("vector", "unembedding", "block", "top tokens", "s(v)", "95 % of random")
    return Table(headings=headings, rows=made, left=4, strong=strong)


def _line(row: Row) -> Claim:
    """s(v) of the base-derived vector at the steered block against random directions."""
    low, high = row["random_low"], row["random_high"]
    where = "inside" if low <= row["score"] <= high else "above" if row["score"] > high else "below"
    text = (
        f"Logit-lens score of the base-derived vector under the {row['unembedding']} unembedding: "
        f"{words.signed(row['score'])} at block {row['layer']}"
    )
    detail = f"{where} the 95 % of random directions of its length, {words.signed(low)} to {words.signed(high)}"
    return Claim(kind="beside", text=text, detail=detail)
