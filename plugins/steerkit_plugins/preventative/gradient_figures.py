"""Gradients of several settings drawn and tabulated: loss and pressure by strength, cosines block by block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from steerkit.findings import Figure, Lines, Series, Table
from steerkit.report import words
from steerkit_plugins.preventative.arms import INOCULATION, NEUTRAL, NONE, RANDOM, SHUFFLED, steered_name
from steerkit_plugins.preventative.gradient_read import Read
from steerkit_plugins.trained.numbers import shown

PRESSURE = 1e4  # what pressures are multiplied by, to be read
CALLED = {
    NONE: "nothing",
    INOCULATION: "asked for the trait",
    NEUTRAL: "neutral instruction",
    RANDOM: "isotropic vector",
    SHUFFLED: "shuffled labels' vector",
}


def called(name: str) -> str:
    """A setting in words."""
    return CALLED.get(name, name.replace("steered-", "vector × "))


def curves(own: Read, strengths: Sequence[float], heading: str) -> Figure:
    """Loss and pressure against the strength of the vector."""
    at = {0.0: NONE} | {s: steered_name(s) for s in sorted(strengths)}

    def panel(title: str, ylabel: str, of: Callable[[str], np.ndarray], scale: float, level: float | None) -> Lines:
        found = {strength: own.estimate(of(name)) for strength, name in at.items()}
        line = Series(
            name="vector added",
            x=tuple(found),
            y=tuple(scale * each.mean for each in found.values()),
            low=tuple(scale * each.low for each in found.values()),
            high=tuple(scale * each.high for each in found.values()),
        )
        return Lines(title=title, xlabel="vector added, times its length", ylabel=ylabel, series=(line,), level=level)

    return Figure(
        name="gradient-curves",
        title="Loss and pressure",
        caption=f"The vector added at block {own.layer} while gradients are read, times its fitted length.",
        heading=heading,
        panels=(
            panel("Loss", "nats a response token", own.loss_of, 1.0, None),
            panel("Pressure along the vector", "⟨−g, v̂⟩ × 10⁴", own.pressure_of, PRESSURE, 0.0),
        ),
    )


def layers(own: Read, names: Sequence[str], heading: str) -> Figure:
    """Cosines with the vector's direction of each block."""

    def line(name: str, of: Callable[[int], float], look: int) -> Series:
        return Series(name=called(name), x=tuple(map(float, own.blocks)), y=tuple(map(of, own.blocks)), look=look)

    plain = [line(name, partial(own.cosine, name), look) for look, name in enumerate(names)]
    moved = [line(name, partial(own.delta_cosine, name), look) for look, name in enumerate(names) if name != NONE]
    panels = [
        Lines(title=title, xlabel="block", ylabel="cosine", series=tuple(lines), level=0.0, mark=own.layer)
        for title, lines in (("cos(−g, v)", plain), ("cos(Δ(−g), v)", moved))
    ]
    return Figure(
        name="gradient-cosines",
        title="Gradients and the vector, block by block",
        caption="Cosines of the mean gradient, and of its change, with the vector's direction of each block.",
        heading=heading,
        panels=tuple(panels),
    )


def table(own: Read, names: Sequence[str]) -> Table:
    """A row a setting."""
    rows = []
    for name in names:
        loss, pressure = own.estimate(own.loss_of(name)), own.estimate(own.pressure_of(name))
        rows.append(
            (
                called(name),
                shown(loss, 3),
                shown(pressure, 2, PRESSURE),
                words.number(own.cosine(name, own.layer), 2),
                words.number(own.delta_cosine(name, own.layer), 2) if name != NONE else words.NOTHING,
                words.number(own.moments[name].participation(own.site), 1),
            )
        )
    headings = (
        "while gradients are read",
        "loss",
        "pressure × 10⁴",
        "cos(−g, v)",
        "cos(Δ(−g), v)",
        "participation ratio, of Δg (of g without a defence)",
    )
    return Table(headings=headings, rows=tuple(rows))
