"""Tokens and dollars, before and after."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

BYTES = 4  # of a token, about, in English
OUTPUT = 1.6  # tokens of an annotation for each token of the text: the text again, labels and quotes around it


@dataclass(frozen=True)
class Prices:
    """Dollars per million tokens."""

    input: float
    output: float

    @classmethod
    def known(cls, model: str, *, batch: bool = False) -> Prices | None:
        """gpt-4o's (2.50 and 10.00; half in a batch); None for any other model."""
        if not re.fullmatch(r"gpt-4o(-20\d\d-\d\d-\d\d)?", model):
            return None
        share = 0.5 if batch else 1.0
        return cls(2.5 * share, 10.0 * share)

    def dollars(self, input_tokens: float, output_tokens: float) -> float:
        """What so many tokens cost."""
        return (input_tokens * self.input + output_tokens * self.output) / 1e6


def expected_tokens(request: dict[str, Any]) -> tuple[float, float]:
    """Input and output tokens that a request will take, about: the answer repeats the last message, labelled."""
    sizes = [len(message["content"].encode()) / BYTES for message in request["messages"]]
    limit = request.get("max_tokens", float("inf"))
    return sum(sizes), min(OUTPUT * sizes[-1], limit)
