"""The offset-window extractor: positions, eligibility, and its options' errors."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError
from steerkit_plugins.extractors.offset_window import OffsetWindow

from steerkit.data.trace import Span, Trace

TRACE = Trace(id="t", prompt_id="t", prompt="", text="", prompt_ids=tuple(range(5)), ids=tuple(range(15)))  # 20 tokens


def positions(first: int, window: tuple[int, int]) -> list[int]:
    span = Span(trace_id="t", label="l", judge="j", start=0, end=1, first=first, last=first)
    found = OffsetWindow(windows=(window,)).positions(TRACE, [span], window)
    assert found.shape == (1, window[1] - window[0] + 1)
    assert found.dtype == np.int64
    return found[0].tolist()


@pytest.mark.parametrize(
    ("first", "window", "expected"),
    [
        (14, (-13, -8), [1, 2, 3, 4, 5, 6]),  # the earliest that doesn't hold the first token
        (13, (-13, -8), [-1] * 6),
        (14, (0, 5), [14, 15, 16, 17, 18, 19]),
        (15, (0, 5), [-1] * 6),
        (6, (-2, 1), [4, 5, 6, 7]),  # prompt text is allowed
        (1, (0, 0), [1]),
        (0, (0, 0), [-1]),
    ],
)
def test_positions(first: int, window: tuple[int, int], expected: list[int]) -> None:
    assert positions(first, window) == expected


def test_no_spans() -> None:
    assert OffsetWindow().positions(TRACE, [], (-13, -8)).shape == (0, 6)


def test_windows_are_listed_once_with_the_sweep_last() -> None:
    assert OffsetWindow().windows() == ((-13, -8),)
    found = OffsetWindow(windows=((-13, -8), (0, 5), (-13, -8)), sweep=(-40, 5)).windows()
    assert found == ((-13, -8), (0, 5), (-40, 5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"windows": ((-8, -13),)}, "window -8..-13 ends before it begins"),
        ({"sweep": (5, -40)}, "window 5..-40 ends before it begins"),
        ({"overlap": "twice"}, "Input should be 'each' or 'once'"),
        ({"overlap": "once", "sweep": (-13, -8)}, "overlap: once keeps no offsets"),
        ({"window": (-13, -8)}, "Extra inputs are not permitted"),
    ],
)
def test_wrong_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        OffsetWindow(**options)
