"""Marked text as a figure: a page of characters of one width, so that it prints."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING

from steerkit.report import style
from steerkit.report.texts import SHADES, Piece

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ADVANCE = 0.602
"""Width of a character of DejaVu Sans Mono, in its font size."""

HEIGHT = 1.75
"""A line's height, in character widths."""

FONT = "DejaVu Sans Mono"
LACKING = "□"
"""Stands for a character that the font lacks; the page has it."""

Cell = tuple[str, Piece]
"""What one column shows, and how it is marked."""


def lines_of(pieces: Sequence[Piece], columns: int, most: int) -> list[list[Cell]]:
    """Words broken into lines of at most `columns` characters; after `most` lines an ellipsis."""
    cells = [(shown(c), piece) for piece in pieces for c in unicodedata.normalize("NFC", piece.text)]
    cells = [cell for cell in cells if cell[0]]
    lines: list[list[Cell]] = [[]]
    word: list[Cell] = []
    for cell in [*cells, (" ", Piece(""))]:
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
        lines = [*lines[:most], [("…", Piece(""))]]
    return lines


def shown(character: str) -> str:
    """What a column shows of a character; nothing for those without a width (combining, joining, control)."""
    if character.isspace():
        return " "
    if unicodedata.category(character) in ("Mn", "Me", "Cc", "Cf"):
        return ""
    return character if ord(character) in _known() else LACKING


@cache
def _known() -> frozenset[int]:
    """Code points that the font has, bold and not."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    faces = [get_font(findfont(FontProperties(family=FONT, weight=weight))) for weight in ("normal", "bold")]
    return frozenset(faces[0].get_charmap()) & frozenset(faces[1].get_charmap())


def inches(lines: int, width: float, columns: int) -> float:
    """Height of a text on axes of a width in inches."""
    return lines * HEIGHT * width / columns


def draw(ax: Axes, lines: Sequence[Sequence[Cell]], columns: int) -> None:
    """Draw lines: sentences filled, counted words bold in a box, windows underlined, shades from white to blue."""
    from matplotlib.patches import Rectangle

    ax.set_xlim(0, columns)
    ax.set_ylim(len(lines) * HEIGHT, 0)
    ax.axis("off")
    for number, line in enumerate(lines):
        top, column = number * HEIGHT, 0
        for piece, cells in groupby(line, key=lambda cell: cell[1]):
            characters = "".join(character for character, _ in cells)
            box, length = (column, top + 0.12 * HEIGHT), len(characters)
            if piece.judged:
                ax.add_patch(Rectangle(box, length, 0.76 * HEIGHT, color="#ffe08a", lw=0))
            if piece.shade:
                alpha = 0.12 + 0.6 * piece.shade / SHADES
                ax.add_patch(Rectangle(box, length, 0.76 * HEIGHT, color=style.SKY, alpha=alpha, lw=0))
            if piece.window:
                ax.plot([column, column + length], [top + 0.9 * HEIGHT] * 2, color=style.VERMILLION, lw=1.4)
            if piece.marked:
                ax.add_patch(Rectangle((column, top + 0.1 * HEIGHT), length, 0.8 * HEIGHT, fill=False, lw=0.9))
            ax.text(
                column,
                top + HEIGHT / 2,
                characters,
                family=FONT,
                va="center",
                weight="bold" if piece.marked else "normal",
                in_layout=False,
            )
            column += length


def fit(made: Figure, axes: Sequence[Axes], columns: int) -> None:
    """Give the letters the size that fills their columns, once the figure knows how wide its axes are."""
    made.draw_without_rendering()
    for ax in axes:
        size = 0.985 * 72 * ax.get_window_extent().width / made.dpi / columns / ADVANCE
        for text in ax.texts:
            text.set_fontsize(size)
