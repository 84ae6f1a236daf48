"""Panels of dots at places along two axes, and weighted edges between them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from steerkit.findings import Dot, Network
from steerkit.report.style import BLUE, DASHED, GREY, VERMILLION, axes_words, empty, known, look_of, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABEL = 7.0
"""Points of a label's letters."""
TICKS = 60
"""Names along x above which some are left out."""
PLACES = ((0, 1, "center"), (0, -1, "center"), (1, 0, "left"), (-1, 0, "right"), (1, 1, "left"), (-1, 1, "right"))
"""Where a label may stand beside its dot: across, up, and its alignment."""


def height_of(panel: Network) -> float:
    """Inches."""
    names = max((len(name) for _, name in panel.xticks), default=0)
    return 1.6 + 0.42 * min(max(len(panel.yticks), 4), 30) + 0.05 * min(names, 16)


def draw_network(ax: Axes, panel: Network, width: float) -> None:
    """Dots of a kind share a look. An edge is as wide and dark as its weight is large, and dashed below 0."""
    axes_words(ax, panel.title, panel.xlabel, panel.ylabel, width)
    if not panel.dots:
        empty(ax, "no nodes")
        return
    ax.grid(False)
    step = -(-len(panel.xticks) // TICKS) or 1
    shown = panel.xticks[::step]
    ax.set_xticks([x for x, _ in shown], [wrapped(name, 16, 1) for _, name in shown], rotation=90, fontsize=7)
    ax.set_yticks([y for y, _ in panel.yticks], [wrapped(name, 16, 1) for _, name in panel.yticks])
    xs, ys = [dot.x for dot in panel.dots], [dot.y for dot in panel.dots]
    ax.set_xlim(min(xs) - 1, max(xs) + 1)
    ax.set_ylim(min(ys) - 0.6, max(ys) + 0.6)
    _edges(ax, panel)
    for number, name in enumerate(panel.kinds):
        own, look = [dot for dot in panel.dots if dot.kind == number], look_of(number)
        ax.scatter(
            [dot.x for dot in own],
            [dot.y for dot in own],
            s=26,
            color=look.color,
            marker=look.marker,
            edgecolors="white",
            linewidths=0.6,
            zorder=3,
            label=wrapped(name, 40, 1),
        )
    _labels(ax, panel, width)


def _edges(ax: Axes, panel: Network) -> None:
    from matplotlib.collections import LineCollection
    from matplotlib.lines import Line2D

    edges = sorted((each for each in panel.edges if known(each[2]) and each[2]), key=lambda each: abs(each[2]))
    top = max((abs(w) for _, _, w in edges), default=1.0)
    sizes = [abs(w) / top for _, _, w in edges]
    at = [(dot.x, dot.y) for dot in panel.dots]
    lines = LineCollection(
        [[at[a], at[b]] for a, b, _ in edges],
        linewidths=[0.3 + 2.2 * size for size in sizes],
        colors=[BLUE if w > 0 else VERMILLION for _, _, w in edges],
        linestyles=["solid" if w > 0 else DASHED for _, _, w in edges],
        alpha=[0.15 + 0.6 * size for size in sizes],
        zorder=1,
    )
    ax.add_collection(lines)
    for sign, color, line, name in ((1, BLUE, "-", "edge above 0"), (-1, VERMILLION, DASHED, "edge below 0")):
        if any(w * sign > 0 for _, _, w in edges):
            ax.add_line(Line2D([], [], color=color, lw=2, ls=line, label=name))


def _labels(ax: Axes, panel: Network, width: float) -> None:
    """Each beside its dot, where it covers no dot and no label; left out where there is no such place."""
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    across, up = 72 * (width - 0.9) / (right - left), 72 * (height_of(panel) - 1.4) / (high - low)
    taken = [_box(dot.x * across, dot.y * up, 6, 6, "center") for dot in panel.dots]
    for dot in panel.dots:
        text = wrapped(dot.label, 22, 1)
        if not text:
            continue
        for box, (dx, dy, align) in _places(dot, text, across, up):
            inside = left * across <= box[0] and box[2] <= right * across and box[3] <= high * up + 4
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                ax.annotate(
                    text,
                    (dot.x, dot.y),
                    xytext=(5 * dx, 8 * dy),
                    textcoords="offset points",
                    ha=align,
                    va="center",
                    fontsize=LABEL,
                    color=GREY,
                    zorder=4,
                )
                break


Box = tuple[float, float, float, float]


def _places(dot: Dot, text: str, across: float, up: float) -> Iterator[tuple[Box, tuple[int, int, Any]]]:
    wide, tall = 0.58 * LABEL * len(text), 1.2 * LABEL
    for dx, dy, align in PLACES:
        yield _box(dot.x * across + 5 * dx, dot.y * up + 8 * dy, wide, tall, align), (dx, dy, align)


def _box(x: float, y: float, wide: float, tall: float, align: str) -> Box:
    begin = x - {"center": wide / 2, "left": 0.0, "right": wide}[align]
    return begin, y - tall / 2, begin + wide, y + tall / 2


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
