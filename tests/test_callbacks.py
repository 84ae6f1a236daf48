"""Callbacks: every event reaches every callback in order; a tracker that isn't there is said so."""

from __future__ import annotations

from typing import Any

import pytest

from steerkit.callbacks import CallbackList, SteeringCallback, Trackers
from steerkit.errors import SteerkitError


class Notes(SteeringCallback):
    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def on_batch_end(self, trainer: Any, stage: str, done: int, total: int) -> None:
        self.seen.append((stage, done, total))


def test_every_callback_hears_every_event() -> None:
    first, second = Notes(), Notes()
    events = CallbackList([first, second])
    trainer: Any = None
    events.on_run_begin(trainer)
    events.on_batch_end(trainer, "traces", 1, 3)
    assert first.seen == second.seen == [("traces", 1, 3)]


def test_a_tracker_that_is_not_installed() -> None:
    with pytest.raises(SteerkitError, match=r"report_to: aim not installed: pip install aim"):
        Trackers(["aim"])
