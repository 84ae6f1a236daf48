"""A run's figures in its log, and in experiment trackers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from steerkit.callbacks import SteeringCallback
from steerkit.errors import SteerkitError
from steerkit.store.files import append_jsonl


class JsonlLog(SteeringCallback):
    """Steps and figures, a line each, in the run folder's ``log.jsonl``."""

    def on_step_end(self, run: Any, step: str, skipped: bool) -> None:
        if not skipped:
            self.on_log(run, {"step": step, "seconds": run.folder.seconds().get(step)})

    def on_log(self, run: Any, values: Mapping[str, Any]) -> None:
        append_jsonl(run.folder / "log.jsonl", [{"time": round(time.time(), 2), **values}])


class Trackers(SteeringCallback):
    """The log's figures to experiment trackers, through accelerate (`report_to`).

    Raises:
        SteerkitError: a tracker's package is not installed (accelerate would leave it out silently).
    """

    def __init__(self, names: Sequence[str]) -> None:
        from accelerate.tracking import get_available_trackers

        have = {str(getattr(tracker, "value", tracker)) for tracker in get_available_trackers()}
        missing = [name for name in names if name not in have]
        if missing:
            raise SteerkitError(f"report_to: {', '.join(missing)} not installed: pip install {' '.join(missing)}")
        self.names = list(names)
        self._accelerator: Any = None
        self._step = 0

    def on_run_begin(self, run: Any) -> None:
        from accelerate import Accelerator

        self._accelerator = Accelerator(log_with=self.names, project_dir=str(run.folder.path))
        self._accelerator.init_trackers("steerkit", config={"run": run.name, "seed": run.seed})

    def on_log(self, run: Any, values: Mapping[str, Any]) -> None:
        numbers = {k: v for k, v in values.items() if isinstance(v, int | float)}
        self._accelerator.log(numbers, step=self._step)
        self._step += 1

    def on_run_end(self, run: Any) -> None:
        self._accelerator.end_training()
