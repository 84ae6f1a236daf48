"""Traces in pairs, told by their ids: ``ID/positive`` and ``ID/negative`` are the two sides of the pair ``ID``.

Two sides differ in what is contrasted (an instruction, a completion) and share the rest. Whatever shuffles labels
swaps sides within a pair, and folds keep pairs whole.
"""

from __future__ import annotations

POSITIVE, NEGATIVE = SIDES = ("positive", "negative")


def side_id(pair: str, side: str) -> str:
    """Id of one side of a pair."""
    return f"{pair}/{side}"


def side_of(name: str) -> str:
    """``positive`` or ``negative``, by a prompt's or a trace's id; empty for one that is no side of a pair."""
    pair, _, side = name.rpartition("/")
    return side if pair and side in SIDES else ""


def pair_of(name: str) -> str:
    """The pair that a side belongs to; the id itself where it is no side of one."""
    side = side_of(name)
    return name.removesuffix(f"/{side}") if side else name
