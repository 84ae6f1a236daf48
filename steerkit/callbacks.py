"""Callbacks: events of a run, through which progress bars, logs and trackers hang."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class SteeringCallback:
    """Override the events that you care about. Every event gets the run first (`steerkit.context.Run`)."""

    def on_run_begin(self, run: Any) -> None:
        """The settings are checked and the run folder is held."""

    def on_step_begin(self, run: Any, step: str) -> None:
        """A step starts that was not done before."""

    def on_batch_end(self, run: Any, step: str, done: int, total: int) -> None:
        """One piece of the step is on disk; `done` of `total` units of work are."""

    def on_progress(self, run: Any, step: str, done: int, total: int) -> None:
        """Work on the next piece is under way: so much of the step is done, though not all of it saved."""

    def on_step_end(self, run: Any, step: str, skipped: bool) -> None:
        """A step is done; `skipped` when it had been done before for the same inputs."""

    def on_log(self, run: Any, values: Mapping[str, Any]) -> None:
        """Figures worth keeping."""

    def on_run_end(self, run: Any) -> None:
        """Everything is on disk."""

    def close(self) -> None:
        """The run is over, also where it ended with an error."""


class Events:
    """Hands every event to each callback in turn."""

    def __init__(self, callbacks: Sequence[SteeringCallback] = ()) -> None:
        self.callbacks = tuple(callbacks)

    def tell(self, event: str, *values: Any) -> None:
        """Call the method ``on_EVENT`` of every callback."""
        for callback in self.callbacks:
            getattr(callback, f"on_{event}")(*values)

    def close(self) -> None:
        """Tell every callback that the run is over."""
        for callback in self.callbacks:
            callback.close()
