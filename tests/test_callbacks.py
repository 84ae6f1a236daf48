"""Callbacks: every event reaches every callback in order; a tracker that isn't there is said so."""

from __future__ import annotations

from typing import Any

import pytest

from steerkit.callbacks import Events, SteeringCallback, Trackers
from steerkit.errors import SteerkitError


class Notes(SteeringCallback):
    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def on_batch_end(self, run: Any, step: str, done: int, total: int) -> None:
        self.seen.append((step, done, total))


def test_every_callback_hears_every_event() -> None:
    first, second = Notes(), Notes()
    events = Events([first, second])
    run: Any = None
    events.tell("run_begin", run)
    events.tell("batch_end", run, "traces", 1, 3)
    assert first.seen == second.seen == [("traces", 1, 3)]


def test_a_tracker_that_is_not_installed() -> None:
    with pytest.raises(SteerkitError, match=r"report_to: aim not installed: pip install aim"):
        Trackers(["aim"])
