"""Pieces of a text, quoted unfaithfully, found again in it: in order, not overlapping.

Exact places (whitespace aside) are anchors; what has none is searched between its located neighbours with small
edits. Work is bounded: a piece that stands in more than `PLACES` places is no anchor, and takes them up in order.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from steerkit.data.fuzzy import Candidate, Edited

PLACES = 64
"""Places that a piece may choose from."""


class Place(NamedTuple):
    """Characters [start, end) of the text; exact when the piece stands there up to whitespace."""

    start: int
    end: int
    exact: bool


class Located(NamedTuple):
    """Where pieces are, None for those that aren't, and which of these stand in the text all the same.

    Attributes:
        overlapping: how many stand only where others are located.
        misplaced: how many stand elsewhere, out of order.
    """

    places: list[Place | None]
    overlapping: int
    misplaced: int


def size_of(text: str) -> int:
    """Characters that aren't whitespace."""
    return len("".join(text.split()))


def locate(text: str, pieces: Sequence[str]) -> Located:
    """Find pieces in the text they were made of.

    Of all ways to place them exactly and in order, the one that locates the most characters (then, the earliest
    places) is taken. Pieces in a row that have no exact place are then searched in the gap they fall in.
    """
    words = [word.span() for word in re.finditer(r"\S+", text)]
    plain = " ".join(text[start:end] for start, end in words)  # all whitespace as one space ...
    origin = [i for start, end in words for i in range(start, end + 1)]  # ... and where its characters stand in `text`
    quoted = [" ".join(piece.split()) for piece in pieces]
    places: list[Place | None] = [None] * len(quoted)
    everywhere = {piece: _occurrences(plain, piece, 0, len(plain)) for piece in dict.fromkeys(quoted)}

    def anchors(missing: Sequence[int], start: int, end: int) -> Iterable[list[Candidate]]:
        for index in missing:
            found = everywhere[quoted[index]]
            yield _weighed(quoted[index], found if len(found) <= PLACES else [])

    def frequent(missing: Sequence[int], start: int, end: int) -> Iterable[list[Candidate]]:
        at = start
        for index in missing:
            found: list[tuple[int, int]] = []
            if len(everywhere[quoted[index]]) > PLACES:
                found = _occurrences(plain, quoted[index], start, end)
                if len(found) > PLACES:
                    found = _occurrences(plain, quoted[index], at, end)
                    at = found[0][1] if found else at
            yield _weighed(quoted[index], found)

    edited = Edited(plain, quoted)
    _fill(places, quoted, len(plain), anchors, exact=True)
    _fill(places, quoted, len(plain), frequent, exact=True)
    _fill(places, quoted, len(plain), edited.candidates, exact=False)
    lost = [everywhere[piece] for piece, place in zip(quoted, places, strict=True) if not place]
    taken = [place for place in places if place]
    ends = [place.end for place in taken]
    free = [_any_free(found, taken, ends) for found in lost if found]
    return Located(
        [p and Place(origin[p.start], origin[p.end - 1] + 1, p.exact) for p in places],
        overlapping=free.count(False),
        misplaced=free.count(True),
    )


def _weighed(piece: str, found: Iterable[tuple[int, int]]) -> list[Candidate]:
    weight = size_of(piece)
    return [Candidate(start, end, weight) for start, end in found]


def _occurrences(text: str, part: str, start: int, end: int) -> list[tuple[int, int]]:
    """(start, end) of the first places of a part in text[start:end]; one over `PLACES` says that there are more."""
    found: list[tuple[int, int]] = []
    at = text.find(part, start, end) if part else -1
    while at >= 0 and len(found) <= PLACES:
        found.append((at, at + len(part)))
        at = text.find(part, at + 1, end)
    return found


def _any_free(found: Sequence[tuple[int, int]], taken: Sequence[Place], ends: Sequence[int]) -> bool:
    """Whether one of the places overlaps none that is taken (in order, with their `ends`)."""
    for start, end in found:
        at = bisect_right(ends, start)
        if at == len(taken) or end <= taken[at].start:
            return True
    return False


def _fill(
    places: list[Place | None],
    quoted: Sequence[str],
    length: int,
    candidates: Callable[[Sequence[int], int, int], Iterable[Sequence[Candidate]]],
    exact: bool,
) -> None:
    """Place what has no place yet, gap by gap."""
    first, start = 0, 0
    for last, place in enumerate([*places, Place(length, length, True)]):
        if place is None:
            continue
        missing = [index for index in range(first, last) if quoted[index]]
        if missing and start < place.start:
            chosen = _chain(candidates(missing, start, place.start))
            for index, found in zip(missing, chosen, strict=True):
                places[index] = found and Place(found.start, found.end, exact)
        first, start = last + 1, place.end


def _chain(pieces: Iterable[Sequence[Candidate]]) -> list[Candidate | None]:
    """A candidate (or None) for each piece, in order and not overlapping, of the greatest weight in all."""
    # The best chains so far, by their ends; ends and weights both rise. A chain is (before, piece, candidate).
    ends: list[int] = [0]
    weights: list[float] = [0.0]
    chains: list[Any] = [None]
    count = 0
    for piece, candidates in enumerate(pieces):
        count += 1
        before = [bisect_right(ends, candidate.start) - 1 for candidate in candidates]
        longer = [
            (c.end, weights[at] + c.weight, (chains[at], piece, c)) for c, at in zip(candidates, before, strict=True)
        ]
        for end, weight, chain in longer:
            at = bisect_right(ends, end)
            if weights[at - 1] >= weight:
                continue
            low = at - (ends[at - 1] == end)
            while at < len(ends) and weights[at] <= weight:
                at += 1
            ends[low:at], weights[low:at], chains[low:at] = [end], [weight], [chain]
    found: list[Candidate | None] = [None] * count
    chain = chains[-1]
    while chain is not None:
        chain, piece, candidate = chain
        found[piece] = candidate
    return found
