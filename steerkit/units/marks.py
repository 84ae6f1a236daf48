"""Which tokens of a trace count, and which of them come right before a sentence with a label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from steerkit.data.trace import Item

Which = Literal["all tokens", "sentence ends"]
"""`all tokens` of the reasoning that another one follows; `sentence ends`: those that a sentence (span) follows."""


@dataclass(frozen=True)
class Marks:
    """Of one trace's T tokens, prompt and response.

    Attributes:
        candidates: [T] bool: the tokens that count.
        hits: [T] bool: those of them that the first token of a span with the label follows.
    """

    candidates: np.ndarray
    hits: np.ndarray


def marks_of(items: Sequence[Item], label: str, which: Which) -> dict[str, Marks]:
    """The marks of each trace.

    Only tokens of the response count. What begins at its first token follows a token of the prompt, and doesn't.

    Args:
        items: traces with all their spans.
    """
    return {item.trace.id: _marks(item, label, which) for item in items}


def _marks(item: Item, label: str, which: Which) -> Marks:
    trace = item.trace
    length, begin = len(trace.tokens), len(trace.prompt_ids)
    inside = np.zeros(length, dtype=bool)
    inside[begin : max(begin + trace.thinking - 1, begin)] = True  # the next one is of the reasoning, too

    def before(label: str | None) -> np.ndarray:
        found = np.zeros(length, dtype=bool)
        places = [span.first - 1 for span in item.spans if label is None or span.label == label]
        found[[place for place in places if place >= 0]] = True
        return found & inside

    return Marks(before(None) if which == "sentence ends" else inside, before(label))
