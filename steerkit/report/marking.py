"""Marks on a text: the pieces that a `Marked` panel is made of, from spans of characters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, groupby, pairwise

from steerkit.findings import Piece

Span = tuple[int, int]
"""First character, and the one after the last."""


def pieces(
    text: str,
    *,
    filled: Sequence[Span] = (),
    boxed: Sequence[Span] = (),
    underlined: Sequence[Span] = (),
    shades: Sequence[tuple[int, int, int]] = (),
    grey: Sequence[Span] = (),
) -> tuple[Piece, ...]:
    """Cut a text wherever a mark begins or ends. Spans may overlap, of one kind too.

    Args:
        shades: (first character, the one after the last, shade from 0 to 5); they don't overlap.
    """
    kinds = (filled, boxed, underlined, grey)
    every = [span for spans in kinds for span in spans] + [(start, end) for start, end, _ in shades]
    cuts = sorted({0, len(text), *(min(max(place, 0), len(text)) for span in every for place in span)})
    inside = [_inside(cuts, spans) for spans in kinds]
    shade = _shades(cuts, shades)
    found = [
        Piece(text=text[a:b], filled=f, boxed=x, underlined=u, shade=s, grey=g)
        for (a, b), f, x, u, g, s in zip(pairwise(cuts), *inside, shade, strict=True)
    ]
    return tuple(piece for piece in _joined(found) if piece.text)


def _shades(cuts: Sequence[int], shades: Sequence[tuple[int, int, int]]) -> list[int]:
    starts = {start: (end, shade) for start, end, shade in shades if start < end}
    found, end, shade = [], 0, 0
    for cut in cuts[:-1]:
        end, shade = starts.get(cut, (end, shade))
        found.append(shade if cut < end else 0)
    return found


def _joined(parts: Iterable[Piece]) -> Iterator[Piece]:
    """Neighbours that are marked alike as one piece."""
    for marks, group in groupby(parts, key=lambda p: (p.filled, p.boxed, p.underlined, p.shade, p.grey)):
        filled, boxed, underlined, shade, grey = marks
        text = "".join(piece.text for piece in group)
        yield Piece(text=text, filled=filled, boxed=boxed, underlined=underlined, shade=shade, grey=grey)


def _inside(cuts: Sequence[int], spans: Sequence[Span]) -> list[bool]:
    """Of each stretch between two cuts, whether it lies in a span; spans begin and end at cuts."""
    last = cuts[-1]
    changes: Counter[int] = Counter()
    for start, end in spans:
        changes[min(max(start, 0), last)] += 1
        changes[min(max(end, 0), last)] -= 1
    return [depth > 0 for depth in accumulate(changes[cut] for cut in cuts[:-1])]
