"""Panels of marked text: characters of one width on a grid."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, TypeVar

from steerkit.findings import Marked, Piece
from steerkit.report.glyphs import MONO, character
from steerkit.report.style import FILL, GREY, INK, SKY, VERMILLION, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Rectangle

T = TypeVar("T")

ADVANCE = 0.602
"""Width of a character of DejaVu Sans Mono, in its font size."""

HEIGHT = 1.85
"""A line's height, in character widths."""

SIZE = 8.5
"""Size of the letters, in points."""

MOST = 14
"""Lines that are drawn of a text; the page has all of it."""

SHADES = 5

Cell = tuple[str, Piece]
"""What one column shows, and how it is marked."""


def columns_for(width: float) -> int:
    """Characters that fit on a line of a width in inches."""
    return max(20, int(width * 72 / (SIZE * ADVANCE)) - 1)


def lines_of(pieces: Sequence[Piece], columns: int, most: int = MOST) -> list[list[Cell]]:
    """Words broken into lines of at most `columns` characters; an ellipsis after `most` lines."""
    budget = columns * most * 2  # a text can be as long as a book: what can't be shown isn't looked at
    cells: list[Cell] = []
    for piece in pieces:
        text = unicodedata.normalize("NFC", piece.text[: max(0, budget - len(cells))])
        cells += [(found, piece) for char in text if (found := character(char, MONO))]
    lines: list[list[Cell]] = [[]]
    word: list[Cell] = []
    for cell in [*cells, (" ", Piece(text=""))]:
        word.append(cell)
        if cell[0] == " ":
            if len(lines[-1]) + len(word) - 1 > columns and lines[-1]:
                lines.append([])
            while len(word) > columns:  # a word longer than a line
                lines[-1] += word[:columns]
                word = word[columns:]
                lines.append([])
            lines[-1] += word
            word = []
    if len(lines) > most:
        lines = [*lines[:most], [("…", Piece(text=""))]]
    return lines


def height(panel: Marked, width: float) -> float:
    """Height in inches of a text on a panel of a width in inches, without its title."""
    columns = columns_for(width)
    return len(lines_of(panel.pieces, columns)) * HEIGHT * width / columns + 0.1


def draw_marked(ax: Axes, panel: Marked, width: float) -> None:
    """Draw a text: filled, in a box, underlined, shaded from white to blue, grey."""
    columns = columns_for(width)
    lines = lines_of(panel.pieces, columns)
    ax.set_xlim(0, columns)
    ax.set_ylim(len(lines) * HEIGHT, 0)
    ax.axis("off")
    facts = " · ".join(part for part in (panel.title, panel.facts, *panel.flags) if part)
    ax.set_title(wrapped(facts, int(columns * 0.95), 2))
    for number, line in enumerate(lines):
        for column, piece, characters in _runs(line, lambda piece: piece):
            _piece(ax, characters, piece, column, number * HEIGHT)
        for column, boxed, characters in _runs(line, lambda piece: piece.boxed):
            if boxed:  # one box, also where a shade changes within it
                ax.add_patch(_rectangle(column, number * HEIGHT, len(characters), fill=False, ec=INK, lw=0.9))


def _runs(line: Sequence[Cell], key: Callable[[Piece], T]) -> Iterator[tuple[int, T, str]]:
    """First column, mark and characters of neighbours that are marked alike."""
    column = 0
    for mark, cells in groupby(line, key=lambda cell: key(cell[1])):
        characters = "".join(text for text, _ in cells)
        yield column, mark, characters
        column += len(characters)


def _rectangle(column: int, top: float, length: int, **look: Any) -> Rectangle:
    from matplotlib.patches import Rectangle

    return Rectangle((column, top + 0.12 * HEIGHT), length, 0.76 * HEIGHT, **look)


def _piece(ax: Axes, text: str, piece: Piece, column: int, top: float) -> None:
    length = len(text)
    if piece.filled:
        ax.add_patch(_rectangle(column, top, length, color=FILL, lw=0))
    if piece.shade:
        alpha = 0.1 + 0.65 * piece.shade / SHADES
        ax.add_patch(_rectangle(column, top, length, color=SKY, alpha=alpha, lw=0))
    if piece.underlined:
        ax.plot([column, column + length], [top + 0.9 * HEIGHT] * 2, color=VERMILLION, lw=1.5, solid_capstyle="butt")
    ax.text(
        column,
        top + HEIGHT / 2,
        text,
        family=MONO,
        va="center",
        color=GREY if piece.grey else INK,
        weight="bold" if piece.boxed else "normal",
        in_layout=False,
    )


def fit(ax: Axes) -> None:
    """Give the letters the size that fills their columns, once the figure knows how wide its axes are."""
    columns = ax.get_xlim()[1]
    size = 0.985 * 72 * ax.get_window_extent().width / ax.figure.dpi / columns / ADVANCE
    for text in ax.texts:
        text.set_fontsize(size)
