"""Texts of single tokens of traces, cut out of the traces' texts: tokens that split a character keep it whole."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np

from steerkit.data.placing import decode_in_place
from steerkit.data.trace import Trace


class TokenTexts:
    """Traces' tokens as texts; what is decoded once is kept, as a text and a place a token."""

    def __init__(self, tokenizer: Any, traces: Iterable[Trace]) -> None:
        self._tokenizer = tokenizer
        self._traces = {trace.id: trace for trace in traces}
        self._decoded: dict[str, tuple[str, np.ndarray]] = {}

    def __call__(self, trace: str, first: int, end: int) -> list[str]:
        """Tokens `first` to `end` (not included) of prompt and response; empty for one that continues a character."""
        if trace not in self._decoded:
            found = decode_in_place(self._tokenizer, self._traces[trace].tokens)
            self._decoded[trace] = found.text, np.array([*found.starts, len(found.text)], np.int32)
        text, starts = self._decoded[trace]
        places = starts[first : end + 1].tolist()
        return [text[a:b] for a, b in pairwise(places)]

    def prompt_length(self, trace: str) -> int:
        """Tokens of the trace's prompt."""
        return len(self._traces[trace].prompt_ids)
