"""How far a run is, on the terminal: what the command line shows, and a `SteeringTrainer` in a script or notebook."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from steerkit.callbacks import SteeringCallback
from steerkit.data.chat_format import in_words
from steerkit.models.setup import in_words as setup_in_words

FIRST = 2.0
"""Seconds of a step before it is told how far it is where there are no bars; then again after twice as long."""


class RichProgress(SteeringCallback):
    """A progress bar a step, on stderr; plain lines where there is no terminal, as in a notebook or a log file."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._console = Console(stderr=True, markup=False, emoji=False, force_jupyter=False)
        self._bars = Progress(
            TextColumn("{task.description:<22}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._live = False
        self._tasks: dict[str, Any] = {}
        self._began: dict[str, float] = {}

    def on_run_begin(self, run: Any) -> None:
        self._live, self._start = self._console.is_terminal, time.time()
        self._began = {}
        for task in self._tasks.values():  # of an earlier run
            self._bars.remove_task(task)
        self._tasks = {}
        if self._live:
            self._bars.start()

    def on_step_begin(self, run: Any, step: str) -> None:
        self._began[step] = time.time()
        self._wait = FIRST
        self._tasks[step] = self._bars.add_task(step, total=1)

    def on_batch_end(self, run: Any, step: str, done: int, total: int) -> None:
        self.on_progress(run, step, done, total)

    def on_progress(self, run: Any, step: str, done: int, total: int) -> None:
        self._bars.update(self._tasks[step], completed=done, total=total)
        if not self._live and time.time() - self._began[step] >= self._wait:
            self._console.print(f"{step:<24} {done} of {total}", style="dim", highlight=False)
            self._wait = 2 * (time.time() - self._began[step])

    def on_log(self, run: Any, values: Mapping[str, Any]) -> None:
        if "again" in values:
            said = f"{values['step']:<24} done again: {values['again']}"
            self._console.print(said, markup=False, highlight=False, soft_wrap=True)
        if "kept" in values:
            said = f"{values['step']:<24} {values['kept']} of {values['pieces']} pieces kept"
            self._console.print(said, style="dim", highlight=False)
        if "broken" in values:
            self._console.print(f"{values['step']:<24} {values['broken']}", style="bold", highlight=False)
        if "batch_size" in values:
            how = f"{setup_in_words(values)}, CPU threads: {values['threads']}, rows at a time: {values['batch_size']}"
            self._console.print(f"{values['step']:<24} {how}", style="dim", highlight=False)
        elif "sampling_of" in values:
            settings = ", ".join(f"{name} {value:g}" for name, value in values["sampling"].items())
            said = f"sampling                 {settings}, as the generation_config of {values['sampling_of']} says"
            self._console.print(said, style="dim", highlight=False)
        for line in in_words(values):
            self._console.print(f"{'prompts':<24} {line}", style="dim", highlight=False)

    def on_step_end(self, run: Any, step: str, skipped: bool) -> None:
        if step in self._tasks:
            self._bars.update(self._tasks[step], completed=self._bars.tasks[self._tasks[step]].total)
        if not self._live:
            took = f"{time.time() - self._began[step]:.1f} s" if step in self._began else "done before"
            self._console.print(f"{step:<24} {took}", highlight=False)

    def on_run_end(self, run: Any) -> None:
        self.close()
        took = f"{time.time() - self._start:.1f} s, in {run.folder.path}"
        self._console.print(f"{'all steps':<24} {took}", highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Take the bars off the screen; also after an error."""
        if self._live:
            self._bars.stop()
