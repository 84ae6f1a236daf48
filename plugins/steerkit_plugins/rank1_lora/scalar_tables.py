"""Tables and the figure of what scalars and probabilities tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from steerkit.findings import Figure, Table
from steerkit.report import words
from steerkit.stats.intervals import Estimate
from steerkit.units.marks import Which
from steerkit_plugins.rank1_lora.told import Told, Traces
from steerkit_plugins.trained.auroc_bars import auroc_bars
from steerkit_plugins.trained.halved import ENDS, EVERY, WHERE
from steerkit_plugins.trained.numbers import shown

Row = tuple[str, Mapping[Which, Estimate]]
"""What tells, and its AUROC on the testing half by which tokens count; without an entry where there is none."""

TITLES = {ENDS: "Among sentence ends", EVERY: "Over all tokens"}


def figure_of(name: str, label: str, data: Traces, rows: Sequence[Row]) -> Figure:
    """A bar for each of what tells, among sentence ends and over all tokens."""
    panels = []
    for where in WHERE:
        own = [(called, each[where]) for called, each in rows if where in each]
        panels.append(auroc_bars(TITLES[where], own))
    return Figure(
        name=name,
        title="What the scalars know",
        caption=f"How well each tells that a {label} sentence begins at the next token: the probability that a token "
        "which such a sentence follows scores higher than another one. Scalars are chosen and the probe is fitted on "
        "one half of the traces; all bars are of the other half, with bootstrap intervals over traces. Dashed: chance.",
        heading=f"n = {len(data.testing)} traces",
        panels=tuple(panels),
        columns=2,
    )


def table_of(rows: Sequence[Row]) -> Table:
    """The bars' figures."""
    made = tuple(
        (called, *(shown(each[where], 3) if where in each else words.NOTHING for where in WHERE))
        for called, each in rows
    )
    headings = ("told by", *(f"AUROC {TITLES[where].lower()}" for where in WHERE))
    return Table(headings=headings, rows=made, title="On the testing half")


def units_of(told: Mapping[str, Told], count: int) -> Iterator[Table]:
    """The scalars that tell best among sentence ends, a table a model."""
    for name, own in told.items():
        d = own.detected

        def turned(value: float, sign: int) -> str:
            return words.number(value if sign > 0 else 1 - value, 3)

        rows = tuple(
            (
                f"{own.units[u]} {_sign(own, u)}",
                turned(d.choosing[u], own.sign(u)),
                turned(d.testing[u], own.sign(u)),
                words.NOTHING if words.missing(float(d.p[u])) else words.p_value(float(d.p[u])),
            )
            for u in own.strongest(count)
        )
        yield Table(
            headings=("scalar and sign", "AUROC, choosing half", "AUROC, testing half", "p, corrected"),
            rows=rows,
            title=f"Scalars that tell best among sentence ends, {name}",
            note="p on the testing half, in the direction of the choosing half: t tests with errors over traces "
            f"(Obuchowski 1997), corrected over all {len(own.units)} scalars (Holm).",
            folded=True,
        )


def lifts_of(data: Traces, told: Mapping[str, Told], config: Any) -> Iterator[Table]:
    """Which labels follow where a scalar is strongest, a table a model."""
    for name, own in told.items():
        rows = tuple(
            (
                f"{own.units[u]} {_sign(own, u)}",
                *(words.number(data.lift(label, own, u), 2) for label in data.labels),
            )
            for u in own.strongest(config.top)
        )
        yield Table(
            headings=("scalar and sign", *data.labels),
            rows=rows,
            title=f"What follows where a scalar is strongest, {name}",
            note=f"Share of each label among the {config.strongest} sentence ends of the testing half at which the "
            "scalar is strongest, over its share among all: 1 is as often as anywhere.",
            folded=True,
        )


def _sign(told: Told, unit: int) -> str:
    return "+" if told.sign(unit) > 0 else "−"
