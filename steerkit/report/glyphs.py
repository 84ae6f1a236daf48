"""Characters that a figure's font has. Others are drawn as a square; the page shows them as they are."""

from __future__ import annotations

import unicodedata
from functools import cache

SANS, MONO = "DejaVu Sans", "DejaVu Sans Mono"
LACKING = "□"
INVISIBLE = ("Mn", "Me", "Cc", "Cf", "Cs", "Zl", "Zp")
"""Categories of characters without a width of their own: combining, joining, control."""


def character(char: str, font: str = SANS) -> str:
    """What is drawn for one character: a space for white space, nothing for what has no width."""
    if char.isspace():
        return " "
    if unicodedata.category(char) in INVISIBLE:
        return ""
    return char if ord(char) in _known(font) else LACKING


def drawn(text: str, font: str = SANS) -> str:
    """A text as it can be drawn, on one line."""
    found = "".join(character(c, font) for c in unicodedata.normalize("NFC", text))
    return found.replace("_", "\u2009_", 1) if found.startswith("_") else found  # matplotlib hides names like _x


@cache
def _known(font: str) -> frozenset[int]:
    """Code points that the font has, bold and not."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    faces = [get_font(findfont(FontProperties(family=font, weight=weight))) for weight in ("normal", "bold")]
    return frozenset(faces[0].get_charmap()) & frozenset(faces[1].get_charmap())
