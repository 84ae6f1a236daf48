"""Traces in the parts that a step's pieces read."""

from __future__ import annotations

from collections.abc import Sequence

from steerkit.data.trace import Item

PIECE_TOKENS = 2**15


def parts_of(items: Sequence[Item]) -> list[tuple[Item, ...]]:
    """Whole traces, those of like length together, in parts of `PIECE_TOKENS` tokens or one trace."""
    found: list[list[Item]] = []
    room = 0
    for item in sorted(items, key=lambda item: (len(item.ids), item.trace.id)):
        if not found or len(item.ids) > room:
            found.append([])
            room = PIECE_TOKENS
        found[-1].append(item)
        room -= len(item.ids)
    return [tuple(part) for part in found]
