"""Is a text still text? Figures that keep a text that repeats one word from counting as full of it."""

from __future__ import annotations

from itertools import groupby, pairwise

from steerkit.data.words import split_words


def words(text: str) -> list[str]:
    """Words in the form that they are compared in (`steerkit.data.words`); what is signs alone stays as it is."""
    return [word.text or text[word.start : word.end] for word in split_words(text)]


def longest_repeat(text: str) -> int:
    """Length of the longest run of one word repeated; 0 for an empty text."""
    return max((sum(1 for _ in run) for _, run in groupby(words(text))), default=0)


def distinct_2(text: str) -> float:
    """Different word pairs over all word pairs; 1.0 for a text of fewer than two words."""
    pairs = list(pairwise(words(text)))
    return len(set(pairs)) / len(pairs) if pairs else 1.0


def collapsed(text: str, *, repeat: int = 5, distinct: float = 0.3) -> bool:
    """A word `repeat` times running, or a share of different word pairs under `distinct`."""
    return longest_repeat(text) >= repeat or distinct_2(text) < distinct
