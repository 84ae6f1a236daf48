"""Places of quoted pieces whose words were changed a little: seeds of shared words, then an alignment around them."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

CHANGED = 0.2
"""An edited piece is located where at most this share of its letters and digits differs; those that the quote dropped
from the text count half: that is what annotators do most."""
LONGEST = 250
"""Words of the longest piece that is searched with edits."""
_SEEDS, _WINDOWS, _SLACK = 64, 4, 32

_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"\\[A-Za-z]+|[{_CJK}]|[^\W_{_CJK}]+")


class Candidate(NamedTuple):
    """Characters [start, end) that a piece may be placed at, and how many characters that locates."""

    start: int
    end: int
    weight: float


class Word(NamedTuple):
    """A word, case-folded and in Unicode's compatible form, and its characters [start, end) of the text."""

    text: str
    start: int
    end: int


def words_of(text: str) -> list[Word]:
    """Words of a text: no punctuation, markdown or LaTeX commands."""
    return [
        Word(unicodedata.normalize("NFKC", match[0]).casefold(), match.start(), match.end())
        for match in _WORD.finditer(text)
        if match[0][0] != "\\"
    ]


class Edited:
    """Where pieces may stand in a text with small edits."""

    def __init__(self, text: str, pieces: Sequence[str]) -> None:
        self._text, self._pieces = text, pieces

    @cached_property
    def _words(self) -> list[Word]:
        return words_of(self._text)

    @cached_property
    def _index(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for number, word in enumerate(self._words):
            found.setdefault(word.text, []).append(number)
        return found

    def candidates(self, missing: Sequence[int], start: int, end: int) -> Iterator[list[Candidate]]:
        """Candidates of each of these pieces in text[start:end]."""
        low = bisect_left(self._words, start, key=lambda word: word.start)
        high = bisect_right(self._words, end, key=lambda word: word.end)
        for index in missing:
            words = [word.text for word in words_of(self._pieces[index])]
            places = self._places(words, low, high) if 0 < len(words) <= LONGEST else []
            yield [self._candidate(*place, start, end) for place in places]

    def _places(self, piece: Sequence[str], low: int, high: int) -> Iterator[tuple[int, int, float]]:
        """(first word, word after the last, weight) where words [low, high) are similar enough to the piece's."""
        size = sum(map(len, piece))
        shared = 0
        seeds: Counter[int] = Counter()  # where the piece would begin → characters of words that would then agree
        for number, word in enumerate(piece):
            known = self._index.get(word, [])
            first, last = bisect_left(known, low), bisect_left(known, high)
            shared += len(word) * (first < last)
            for place in known[first : min(last, first + _SEEDS)]:
                seeds[place - number] += len(word)
        if shared < size / 2:  # a word that was misspelt is no seed
            return
        whole = sorted(begin for begin, agreeing in seeds.items() if agreeing == size)
        for begin in whole:
            yield begin, begin + len(piece), size
        if whole:
            return
        slack = min(int(CHANGED * size) + 1, _SLACK)
        tried: list[int] = []
        for begin, _ in sorted(seeds.items(), key=lambda seed: (-seed[1], seed[0]))[:_WINDOWS]:
            near = sum(seeds[begin + shift] for shift in range(-slack, slack + 1))
            if near < size / 2 or any(abs(begin - other) <= slack for other in tried):
                continue
            tried.append(begin)
            left = max(low, begin - slack)
            window = [word.text for word in self._words[left : min(high, begin + len(piece) + slack)]]
            first, last, cost = best_fit(piece, window)
            if cost <= CHANGED * size and first < last:
                yield left + first, left + last, size - cost

    def _candidate(self, first: int, last: int, weight: float, low: int, high: int) -> Candidate:
        """The words' characters and the signs that stick to them: all behind, and before where a space precedes."""
        start, end = self._words[first].start, self._words[last - 1].end
        while end < high and not self._text[end].isspace() and not self._text[end].isalnum():
            end += 1
        begin = start
        while begin > low and not self._text[begin - 1].isspace() and not self._text[begin - 1].isalnum():
            begin -= 1
        if begin == low or self._text[begin - 1].isspace():
            start = begin
        return Candidate(start, end, weight)


def best_fit(piece: Sequence[str], window: Sequence[str]) -> tuple[int, int, float]:
    """Where in a window a piece's words fit best.

    Returns:
        (first word, word after the last, letters and digits that differ, the dropped ones counted half). A word may
        be misspelt (up to half of it); another word counts whole.
    """
    import numpy as np
    from rapidfuzz.distance import Levenshtein
    from rapidfuzz.process import cdist

    letters = cdist(piece, window, scorer=Levenshtein.distance, dtype=np.int32)
    longer = np.maximum.outer([len(word) for word in piece], [len(word) for word in window])
    changed = np.where(2 * letters <= longer, letters, longer).tolist()  # else it is another word
    dropped = [len(word) / 2 for word in window]
    row: list[tuple[float, int]] = [
        (0.0, -number) for number in range(len(window) + 1)
    ]  # (cost, -first): fewest words win
    for word, costs in zip(piece, changed, strict=True):
        above, row = row, [(row[0][0] + len(word), 0)]
        for number, cost in enumerate(costs):
            (a, i), (b, j), (c, k) = above[number], above[number + 1], row[number]
            row.append(min((a + cost, i), (b + len(word), j), (c + dropped[number], k)))
    last = min(range(len(row)), key=lambda number: (row[number][0], number))
    return -row[last][1], last, row[last][0]
