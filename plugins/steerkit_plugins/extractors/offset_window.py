"""Activations at fixed token offsets from each span's first token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import model_validator

from steerkit.data.trace import Span, Trace
from steerkit.interfaces import OWN_TOKENS, Config, Extractor, Window


class OffsetWindowConfig(Config):
    windows: tuple[Window, ...] = ((-13, -8),)
    """Windows in token offsets from a span's first token, inclusive; [0, -1] is the span's own tokens. A span
    counts in each one that lies wholly inside prompt + trace, after the first token."""
    sweep: Window | None = None
    """A wider range whose sub-windows are compared on the same spans: those eligible for all of it."""
    overlap: Literal["each", "once"] = "each"
    """`each`: a position counts once for every window it lies in; `once`: once a trace (not in the sweep, whose
    windows are compared offset by offset)."""

    @model_validator(mode="after")
    def _ordered(self) -> OffsetWindowConfig:
        for first, last in (*self.windows, *([self.sweep] if self.sweep else [])):
            if first > last and (first, last) != OWN_TOKENS:
                raise ValueError(f"window {first}..{last} ends before it begins")
        if self.overlap == "once" and self.sweep in self.windows:
            raise ValueError(f"overlap: once keeps no offsets of {self.sweep}: sweep another range")
        return self


class OffsetWindow(Extractor):
    """The paper's reading: tokens −13..−8 before a sentence (arXiv 2507.12638, Eq. 3)."""

    Config = OffsetWindowConfig

    def windows(self) -> Sequence[tuple[int, int]]:
        sweep = (self.config.sweep,) if self.config.sweep else ()
        return tuple(dict.fromkeys((*self.config.windows, *sweep)))

    def positions(self, trace: Trace, spans: Sequence[Span], window: tuple[int, int]) -> np.ndarray:
        first = np.array([span.first for span in spans], dtype=np.int64).reshape(-1, 1)
        if window == OWN_TOKENS:  # shorter spans repeat their last token, which counts once
            last = np.array([span.last for span in spans], dtype=np.int64).reshape(-1, 1)
            found = np.minimum(first + np.arange(max((last - first).max(initial=0), 0) + 1), last)
        else:
            found = first + np.arange(window[0], window[1] + 1)
        inside = (found[:, 0] >= 1) & (found[:, -1] < len(trace.tokens))
        return np.where(inside[:, None], found, -1)

    def once(self, window: tuple[int, int]) -> bool:
        return super().once(window) or (self.config.overlap == "once" and window in self.config.windows)
