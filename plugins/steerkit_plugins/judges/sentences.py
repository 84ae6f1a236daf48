"""Sentences of a text as exact character spans: pySBD's English ones, for every text and in linear time."""

from __future__ import annotations

import re
from functools import lru_cache

WINDOW = 16_000
"""Characters that pySBD is given at once. Its time grows faster than the text; a longer text is read in parts."""

Span = tuple[int, int]

# Characters that pySBD itself puts in the place of punctuation (and takes for punctuation where a text has them), and
# whitespace that it stops at: it gets others of their kind to read.
_MARKS = {"ƪȸȹ": "ɐ", "ᓰᓱᓳᓴᓷᓸ": "ᓲ", "∮∯⌬⎋☄☇☈☉☏☝♝♟♨♬♭✂": "◊", "\x1c\x1d\x1e\x1f": " "}
MARKS = str.maketrans({mark: other for marks, other in _MARKS.items() for mark in marks})

_PLAIN = re.compile(r"\S(?:[^\n\r]*?[.!?。！？]++[\"'”’)\]]*+(?=\s)|[^\n\r]*)")


def sentences(text: str) -> list[Span]:
    """(start, end) of each sentence in order, surrounding whitespace left out. All other characters are in one.

    Up to `WINDOW` characters, sentences are pySBD's. A longer text is cut behind the last line break of a window,
    which ends a sentence anyway; without one, the window's last sentence is read again at the start of the next.
    """
    found: list[Span] = []
    at, unfinished = 0, False  # unfinished: the last sentence found goes on at `at`
    while at < len(text):
        end, whole = _window(text, at)
        spans = [(at + first, at + last) for first, last in _split(text[at:end])]
        last = spans[-1][0] if spans else at
        if not whole and last >= at + WINDOW // 2:
            spans.pop()
            end, whole = last, True
        if unfinished and spans:
            found[-1] = found[-1][0], spans.pop(0)[1]
        found += spans
        at, unfinished = end, not whole and bool(found)
    return found


def _window(text: str, at: int) -> tuple[int, bool]:
    """The end of the window that begins at a place, and whether a sentence ends there."""
    end = at + WINDOW
    if end >= len(text):
        return len(text), True
    line = max(text.rfind("\n", at, end), text.rfind("\r", at, end))
    if line >= 0:
        return line + 1, True
    return next((place for place in range(end, end - WINDOW // 2, -1) if text[place].isspace()), end), False


@lru_cache(maxsize=256)
def _split(text: str) -> tuple[Span, ...]:
    """Sentences of a window; a collapsed text has the same window again and again."""
    from steerkit_plugins.judges.pysbd_english import split

    read = text.translate(MARKS)
    found = ["".join(sentence.split()) for sentence in split(read)]
    if "".join(found) != "".join(read.split()):  # pySBD lost or added a character
        return tuple((match.start(), match.start() + len(match[0].rstrip())) for match in _PLAIN.finditer(text))
    places = [place for place, character in enumerate(text) if not character.isspace()]
    spans, at = [], 0
    for sentence in filter(None, found):
        spans.append((places[at], places[at + len(sentence) - 1] + 1))
        at += len(sentence)
    return tuple(spans)
