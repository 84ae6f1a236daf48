"""How figures look: Okabe-Ito colours with a marker and a line style each, so that no figure depends on colour."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

from steerkit.report.glyphs import drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
BLACK, INK, GREY, PALE, FILL = "#000000", "#22252a", "#63676e", "#e4e5e7", "#ffe08a"
DASHED, DOTTED = (0, (4, 2)), (0, (1, 2))
RC: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],  # ships with matplotlib: the same bytes on every machine
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": PALE,
    "grid.linewidth": 0.7,
    "axes.linewidth": 0.8,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "text.parse_math": False,
    "figure.facecolor": "white",
    "svg.hashsalt": "steerkit",
}

CHARACTERS = 14
"""Of a title, for an inch."""

MANY = 12
"""Ticks above which some are left out."""


@dataclass(frozen=True)
class Look:
    """Colour, marker and line style of a series."""

    color: str
    marker: str
    line: str | tuple[int, tuple[int, ...]]


LOOKS = (
    Look(BLUE, "o", "-"),
    Look(VERMILLION, "s", "--"),
    Look(GREEN, "^", "-."),
    Look(PURPLE, "D", (0, (3, 1))),
    Look(ORANGE, "v", (0, (5, 1, 1, 1, 1, 1))),
    Look(SKY, "P", (0, (6, 2))),
    Look(BLACK, "X", (0, (1, 1))),
)


def look_of(number: int) -> Look:
    """The look that a number stands for; they begin again after the last one."""
    return LOOKS[number % len(LOOKS)]


def known(value: float | None) -> TypeGuard[float]:
    """Whether a number can be drawn."""
    return value is not None and math.isfinite(value)


def axes_words(ax: Axes, title: str, xlabel: str, ylabel: str, width: float) -> None:
    """Title and axis labels in as many lines as they need on a panel of a width in inches."""
    room = max(int((width - 0.7) * CHARACTERS), 24)
    ax.set_title(wrapped(title, room))
    ax.set_xlabel(wrapped(xlabel, room))
    ax.set_ylabel(wrapped(ylabel, 38))


def wrapped(text: str, width: int, most: int = 3) -> str:
    """A text in lines of at most `width` characters; an ellipsis after `most` lines."""
    import textwrap

    return "\n".join(textwrap.wrap(drawn(text), width, max_lines=most, placeholder=" …"))


def name_ticks(ax: Axes, places: list[float], names: list[str], *, width: float) -> None:
    """Named ticks along x; some are left out where there are many, and they are slanted where they are long."""
    step = -(-len(places) // MANY) or 1
    shown = [wrapped(name, 24, 1) for name in names[::step]]
    crowded = sum(len(name) + 2 for name in shown) * 0.075 > width
    turn: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    ax.set_xticks(places[::step], shown, **turn)


def empty(ax: Axes, text: str) -> None:
    """Says in the middle of a panel that there is nothing to show."""
    ax.set_xticks([])
    ax.set_yticks([])
    ax.text(0.5, 0.5, wrapped(text or "no values", 40), transform=ax.transAxes, ha="center", va="center", color=GREY)
