"""Which part of a text each of its tokens is in: prompt, reasoning, answer, or a marker between them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from steerkit.data.trace import Trace

REGIONS = ("prompt", "thinking", "answer", "marker")
MARKER = REGIONS.index("marker")


def markers_of(tokenizer: Any) -> frozenset[int]:
    """Ids of the tokens that a chat format is made of: those that a tokenizer was given beside its vocabulary."""
    return frozenset({*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids})


def regions_of(trace: Trace, markers: Collection[int]) -> np.ndarray:
    """[T] numbers in `REGIONS` of a trace's tokens, prompt and response.

    Args:
        markers: ids of the writer's tokens that are markers, wherever they stand.
    """
    begin = len(trace.prompt_ids)
    found = np.zeros(len(trace.tokens), np.int64)
    found[begin:] = REGIONS.index("thinking")
    found[begin + trace.thinking :] = REGIONS.index("answer")
    found[np.isin(trace.tokens, list(markers))] = MARKER
    return found
