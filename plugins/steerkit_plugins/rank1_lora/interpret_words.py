"""The findings of `interpret` in words, tables and a figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from steerkit.findings import Bars, Claim, Figure, Table
from steerkit.report import words
from steerkit_plugins.judges.llm_explain import CLASSES
from steerkit_plugins.rank1_lora.classes import ClassDifference, ClassShares
from steerkit_plugins.rank1_lora.feature_contexts import Found
from steerkit_plugins.rank1_lora.sources import LATENTS, NEURONS, UNITS
from steerkit_plugins.trained.token_texts import TokenTexts

KINDS = {UNITS: "adapter units", NEURONS: "neurons", LATENTS: "latents"}
TABLE = 12
"""Features in the table, those that reach furthest."""
Row = dict[str, Any]


def strongest_tokens(feature: Found, tokens: TokenTexts) -> list[str]:
    """Texts of the tokens that it is strongest at, the commonest first; three at most."""
    texts = ["".join(tokens(c.trace, c.at, c.at + 1)) for c in feature.contexts]
    return [text for text, _ in Counter(texts).most_common(3)]


def strongest_table(rows: Sequence[Row]) -> Table:
    """The units that add most."""
    units = sorted((row for row in rows if row["kind"] == UNITS), key=lambda row: -row["largest"])[:TABLE]
    return Table(
        title=f"The {len(units)} adapter units that reach furthest",
        headings=("unit", "strongest at", "explanation", "active, % of tokens", "largest"),
        left=3,
        rows=tuple(
            (
                f"{row['model']} {row['feature']}",
                row["strongest"],
                row["explanation"] or words.NOTHING,
                words.percent(row["share"]),
                words.number(row["largest"], 2),
            )
            for row in units
        ),
    )


def counted(rows: Sequence[Row], pages: str) -> str:
    units = [row for row in rows if row["kind"] == UNITS]
    active = sum(bool(row["contexts"]) for row in units)
    return f"{active} of {len(units)} adapter units (each sign for itself) are active somewhere; see {pages}."


def in_words(own: ClassShares) -> str:
    return ", ".join(
        f"{words.percent(share)} % {words.interval(low, high)} {name}"
        for name, share, low, high in zip(CLASSES, own.shares, own.low, own.high, strict=True)
    )


def claim(found: ClassDifference, n: int) -> Claim:
    mean, low, high = found.difference
    known = not np.isnan([low, high]).any()
    verdict = "cannot be told" if not known else "holds" if high <= 0 else "does not hold" if low > 0 else "unclear"
    test = f"; chi-square {found.chi2:.1f}, p {words.p_value(found.p)}" if not np.isnan(found.p) else ""
    return Claim(
        text="Adapter units are at least as interpretable as neurons",
        verdict=verdict,  # type: ignore[arg-type]  # one of them
        difference=words.number(mean, 2),
        interval=f"[{words.number(low, 2)}, {words.number(high, 2)}]" if known else "",
        n=n,
        detail=f"n: features; mean class (0 monosemantic to 2 polysemantic), units less neurons{test}",
    )


def class_table(shares: Mapping[str, ClassShares]) -> Table:
    return Table(
        title="Classes",
        headings=("features", "n", *(f"{name}, %" for name in CLASSES), "mean class"),
        rows=tuple(
            (
                KINDS[kind],
                str(own.counts.sum()),
                *(
                    f"{words.percent(share)} {words.interval(low, high)}"
                    for share, low, high in zip(own.shares, own.low, own.high, strict=True)
                ),
                f"{own.mean[0]:.2f} [{words.number(own.mean[1], 2)}, {words.number(own.mean[2], 2)}]",
            )
            for kind, own in shares.items()
        ),
    )


def figure(shares: Mapping[str, ClassShares]) -> Figure:
    return Figure(
        name="classes",
        title="Classes of features",
        caption="Share of features in each class, with intervals over units.",
        panels=tuple(
            Bars(
                title=f"{KINDS[kind]}, n = {own.counts.sum()}",
                ylabel="% of features",
                names=CLASSES,
                values=tuple(100 * own.shares),
                low=tuple(100 * own.low),
                high=tuple(100 * own.high),
            )
            for kind, own in shares.items()
        ),
    )
