"""Activations at a place of the whole trace: its response, its prompt, or the last token of either."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from steerkit.data.trace import Span, Trace
from steerkit.interfaces import OWN_TOKENS, Config, Extractor


class PositionsConfig(Config):
    at: Literal["response mean", "prompt mean", "last prompt token", "last token"] = "response mean"
    """`response mean`: all tokens of the response (persona vectors); `prompt mean`: all tokens of the prompt, chat
    template included; `last prompt token`: the one from which the response begins; `last token`: the last of prompt and
    response (contrastive activation addition)."""


class Positions(Extractor):
    """The same tokens for every span of a trace: for labels of whole traces. Its window is [0, -1].

    With a fitter's `weighting: trace` a mean over several tokens is one over the trace first, then over traces. The
    response is everything that was generated, a reasoning and its answer alike; the token that ends it is no part of
    it. A trace without a response has no `response mean`: it is dropped, and counted.
    """

    Config = PositionsConfig

    def windows(self) -> Sequence[tuple[int, int]]:
        return (OWN_TOKENS,)

    def positions(self, trace: Trace, spans: Sequence[Span], window: tuple[int, int]) -> np.ndarray:
        begin, end = len(trace.prompt_ids), len(trace.tokens)
        first, last = {
            "response mean": (begin, end),
            "prompt mean": (0, begin),
            "last prompt token": (begin - 1, begin),
            "last token": (end - 1, end),
        }[self.config.at]
        own = np.arange(first, last) if 0 <= first < last else np.array([-1])
        return np.tile(own.astype(np.int64), (len(spans), 1))
