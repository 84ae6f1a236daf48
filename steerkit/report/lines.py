"""Panels of lines with intervals, and of bars."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from steerkit.findings import Band, Bars, Lines, Series
from steerkit.report.glyphs import drawn
from steerkit.report.style import BLUE, DASHED, DOTTED, GREY, axes_words, empty, known, look_of, name_ticks, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARGIN = 0.06
"""Share of the values' range that stays free above and below them."""

TICK_ROOM = 0.24
"""Inches between two places above which each has its tick."""


def draw_lines(ax: Axes, panel: Lines, width: float) -> None:
    """Lines with intervals. `width`: of the panel, in inches."""
    axes_words(ax, panel.title, panel.xlabel, panel.ylabel, width)
    shown = [series for series in panel.series if any(map(known, series.y))]
    if not shown:
        empty(ax, panel.empty)
        return
    if panel.band:
        _band(ax, panel.band)
    if panel.level is not None:
        ax.axhline(panel.level, color=GREY, lw=1, ls=DASHED, zorder=1)
    if panel.mark is not None:
        ax.axvline(panel.mark, color=GREY, lw=1, ls=DOTTED, zorder=1)
    for series, shift in zip(shown, shifts(shown), strict=True):
        _series(ax, series, shift)
    _limits(ax, panel)
    _ticks(ax, panel, width)


def shifts(series: Sequence[Series]) -> list[float]:
    """Small shifts along x, so that intervals of several series at one place stand side by side."""
    wide = [index for index, one in enumerate(series) if one.low]
    places = sorted({x for index in wide for x in series[index].x})
    gaps = [b - a for a, b in pairwise(places)]
    step = min(gaps) * min(0.08, 0.5 / len(wide)) if gaps and len(wide) > 1 else 0.0
    shift = {index: step * (place - (len(wide) - 1) / 2) for place, index in enumerate(wide)}
    return [shift.get(index, 0.0) for index in range(len(series))]


def _series(ax: Axes, series: Series, shift: float) -> None:
    look = look_of(series.look)
    nan = float("nan")  # breaks the line
    style = "none" if not series.line else ":" if series.hollow else look.line
    ax.plot(
        [x + shift for x in series.x],
        [y if y is not None and known(y) else nan for y in series.y],
        color=look.color,
        marker=look.marker,
        linestyle=style,
        markerfacecolor="white" if series.hollow else look.color,
        label=wrapped(series.name, 60, 1),
        zorder=3,
        clip_on=False,  # markers on an axis are whole
    )
    for x, low, high in zip(series.x, series.low, series.high, strict=False):
        if known(low) and known(high):
            # Not error bars: an interval can be longer on one side of its value.
            ax.vlines(x + shift, low, high, color=look.color, lw=1.1, zorder=2)


def _band(ax: Axes, band: Band) -> None:
    label = wrapped(band.name, 60, 1)
    ends = list(zip(band.x or (0.0,), band.low, band.high, strict=False))
    there = [(x, low, high) for x, low, high in ends if known(low) and known(high)]
    if there and band.x:
        xs, lows, highs = zip(*there, strict=True)
        ax.fill_between(xs, lows, highs, color=GREY, alpha=0.16, lw=0, zorder=0, label=label)
        label = ""
    elif there:
        ax.axhspan(there[0][1], there[0][2], color=GREY, alpha=0.16, lw=0, zorder=0)
    if known(band.middle):
        ax.axhline(band.middle, color=GREY, lw=1.1, ls=DASHED, zorder=1, label=label or None)
    elif there and not band.x:
        ax.patches[-1].set_label(label)


def _values(panel: Lines) -> Iterator[float | None]:
    for series in panel.series:
        yield from (*series.y, *series.low, *series.high)
    if panel.band:
        yield from (*panel.band.low, *panel.band.high, panel.band.middle)
    yield panel.level


def _limits(ax: Axes, panel: Lines) -> None:
    """Show all values and the bounds; the axis ends at a bound that no value lies beyond."""
    values = [value for value in _values(panel) if value is not None and known(value)]
    least, most = panel.bounds
    low = min([*values, *([least] if least is not None else [])])
    high = max([*values, *([most] if most is not None else [])])
    room = MARGIN * ((high - low) or abs(high) or 1.0)
    ax.set_ylim(low if low == least else low - room, high if high == most and high > low else high + room)


def _ticks(ax: Axes, panel: Lines, width: float) -> None:
    from matplotlib.ticker import MaxNLocator

    places = sorted({x for series in panel.series for x in series.x})
    span = places[-1] - places[0]
    room = min((b - a for a, b in pairwise(places)), default=0.0) / span * (width - 0.8) if span else 0.0
    if panel.ticks:
        name_ticks(ax, [x for x, _ in panel.ticks], [name for _, name in panel.ticks], width=width - 0.8)
    elif room > TICK_ROOM:
        ax.set_xticks(places, [f"{x:g}".replace("-", "−") for x in places])
    elif all(float(x).is_integer() for x in places):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    if not span:
        ax.set_xlim(places[0] - 1, places[0] + 1)


def draw_bars(ax: Axes, panel: Bars, width: float) -> None:
    """A horizontal bar a name, the first at the top, with intervals."""
    axes_words(ax, panel.title, panel.ylabel, "", width)
    at = range(len(panel.names))
    ax.barh(at, [v if v is not None and known(v) else 0.0 for v in panel.values], height=0.62, color=BLUE, alpha=0.55)
    for y, low, high in zip(at, panel.low, panel.high, strict=False):
        if known(low) and known(high):
            ax.hlines(y, low, high, color="black", lw=1.4, zorder=3)
    for y, value in zip(at, panel.values, strict=True):
        if not known(value):
            ax.text(0, y, " no value", va="center", color=GREY, fontsize=8)
    ax.axvline(0, color=GREY, lw=0.8)
    if panel.level is not None:
        ax.axvline(panel.level, color=GREY, lw=1, ls=DASHED)
    ax.set_yticks(at, [wrapped(drawn(name), 32, 2) for name in panel.names])
    ax.set_ylim(len(panel.names) - 0.4, -0.6)
    ax.grid(axis="x")
    ax.grid(visible=False, axis="y")
    if not any(known(value) for value in panel.values):
        ax.set_xticks([])
