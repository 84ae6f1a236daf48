"""What an explaining judge is shown of a feature: examples of where it is strong (arXiv 2511.06739)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from steerkit.stats.noise import key_of
from steerkit.units.contexts import Context

Shows = Literal["signed", "absolute"]
"""`signed`: numbers of the feature's other sign are below 0. `absolute`: sizes alone, as the paper's code shows them;
tokens of the other sign then look like evidence."""
SCALE = 10.0
LEAST = 0.5
"""Of the scale: tokens at which the number is smaller are not listed."""
LISTED = 10
"""Tokens that are listed of an example, at most."""


def examples_text(
    contexts: Sequence[Context],
    sign: int,
    tokens: Callable[[str, int, int], Sequence[str]],
    *,
    count: int,
    width: int,
    shows: Shows = "signed",
    seed: int = 0,
    name: str = "",
) -> str:
    """The strongest contexts, their order shuffled by seed and name; empty where there is none.

    Args:
        sign: 1, or -1 for a feature whose numbers are negative: they are shown times it.
        tokens: (trace id, first token, the one after the last) → their texts.
        count: of contexts, at most.
        width: tokens on each side.
    """
    own = contexts[:count]
    cut = [_cut(context, width) for context in own]
    largest = max((float(np.abs(values).max()) for _, values in cut), default=0.0)
    if not largest:
        return ""
    order = np.random.default_rng(key_of(seed, "examples", name)).permutation(len(own))
    shown = []
    for number, place in enumerate(order.tolist(), 1):
        first, values = cut[place]
        scaled = (np.abs(values) if shows == "absolute" else sign * values) * (SCALE / largest)
        shown.append(_example(number, tokens(own[place].trace, first, first + len(values)), scaled))
    return "\n\n".join(shown)


def _cut(context: Context, width: int) -> tuple[int, np.ndarray]:
    """First token and numbers of the window, at most `width` tokens on each side."""
    at = context.at - context.first
    begin = max(at - width, 0)
    return context.first + begin, np.array(context.values[begin : at + width + 1])


def _example(number: int, tokens: Sequence[str], scaled: np.ndarray) -> str:
    listed = np.argsort(-np.abs(scaled), kind="stable")[:LISTED]
    strong = [int(at) for at in listed if abs(scaled[at]) > LEAST]
    told = ", ".join(f"{json.dumps(tokens[at], ensure_ascii=False)} {scaled[at]:.1f}" for at in strong)
    return f"Example {number}:\n<text>{''.join(tokens)}</text>\nTokens: {told}"
