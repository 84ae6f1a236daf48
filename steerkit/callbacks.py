"""Callbacks: events of a run, through which progress bars, logs and trackers hang."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from steerkit.data.chat_format import in_words
from steerkit.errors import SteerkitError
from steerkit.models.setup import in_words as setup_in_words
from steerkit.store.files import append_jsonl

if TYPE_CHECKING:
    from steerkit.run import SteeringTrainer


class SteeringCallback:
    """Override the events that you care about. Every event gets the trainer first."""

    def on_run_begin(self, trainer: SteeringTrainer) -> None:
        """The models are known and the run folder is held."""

    def on_stage_begin(self, trainer: SteeringTrainer, stage: str) -> None:
        """A stage starts that was not done before."""

    def on_batch_end(self, trainer: SteeringTrainer, stage: str, done: int, total: int) -> None:
        """One batch (of generated rows: one chunk) is on disk; `done` of `total` units are."""

    def on_progress(self, trainer: SteeringTrainer, stage: str, done: int, total: int) -> None:
        """Work on the next batch is under way: so much of the stage is done, though not all of it saved."""

    def on_wait(self, trainer: SteeringTrainer, stage: str, what: str) -> None:
        """This shard waits for other shards; told when that begins or changes, and every minute."""

    def on_stage_end(self, trainer: SteeringTrainer, stage: str, skipped: bool) -> None:
        """A stage is done; `skipped` when it had been done before, or by another shard, for the same inputs."""

    def on_log(self, trainer: SteeringTrainer, values: Mapping[str, Any]) -> None:
        """Figures worth keeping."""

    def on_run_end(self, trainer: SteeringTrainer) -> None:
        """Everything is on disk."""


class CallbackList(SteeringCallback):
    """Hands every event to each callback in turn."""

    def __init__(self, callbacks: Sequence[SteeringCallback]) -> None:
        self.callbacks = list(callbacks)

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("on_"):
            return super().__getattribute__(name)

        def each(*args: Any) -> None:
            for callback in self.callbacks:
                getattr(callback, name)(*args)

        return each


class JsonlLog(SteeringCallback):
    """Stages and figures, a line each, in the run folder's ``log.jsonl``."""

    def _write(self, trainer: SteeringTrainer, **values: Any) -> None:
        shard = {"shard": str(trainer.shard)} if trainer.shard.count > 1 else {}
        append_jsonl(trainer.folder / "log.jsonl", [{"time": round(time.time(), 2), **shard, **values}])

    def on_stage_end(self, trainer: SteeringTrainer, stage: str, skipped: bool) -> None:
        if not skipped:
            self._write(trainer, stage=stage, seconds=trainer.folder.seconds().get(stage))

    def on_log(self, trainer: SteeringTrainer, values: Mapping[str, Any]) -> None:
        self._write(trainer, **values)


class RichProgress(SteeringCallback):
    """A progress bar a stage, on stderr; plain lines where there is no terminal, or where another process has it."""

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

        self._console = Console(stderr=True, markup=False, emoji=False)
        self._bars = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._tasks: dict[str, Any] = {}
        self._began: dict[str, float] = {}

    def on_run_begin(self, trainer: SteeringTrainer) -> None:
        self._live = self._console.is_terminal and trainer.shard.local_index == 0
        self._name = f"shard {trainer.shard} " if trainer.shard.count > 1 else ""
        if self._live:
            self._bars.start()

    def on_stage_begin(self, trainer: SteeringTrainer, stage: str) -> None:
        self._began[stage] = time.time()
        self._tasks[stage] = self._bars.add_task(self._name + stage, total=1)

    def on_batch_end(self, trainer: SteeringTrainer, stage: str, done: int, total: int) -> None:
        self.on_progress(trainer, stage, done, total)

    def on_progress(self, trainer: SteeringTrainer, stage: str, done: int, total: int) -> None:
        self._bars.update(self._tasks[stage], completed=done, total=total)

    def on_log(self, trainer: SteeringTrainer, values: Mapping[str, Any]) -> None:
        if "again" in values:
            said = f"{values['stage']:<12} done again: {values['again']}"
            self._console.print(said, markup=False, highlight=False, soft_wrap=True)
        if "broken" in values:
            self._console.print(f"{values['stage']:<12} {values['broken']}", style="bold", highlight=False)
        if "batch_size" in values:
            how = f"{setup_in_words(values)}, CPU threads: {values['threads']}, rows at a time: {values['batch_size']}"
            self._console.print(f"{values['stage']:<12} {how}", style="dim", highlight=False)
        elif "sampling_of" in values:
            settings = ", ".join(f"{name} {value:g}" for name, value in values["sampling"].items())
            said = f"sampling     {settings}, as the generation_config of {values['sampling_of']} says"
            self._console.print(said, style="dim", highlight=False)
        for line in in_words(values):
            self._console.print(f"{'prompts':<12} {line}", style="dim", highlight=False)

    def on_stage_end(self, trainer: SteeringTrainer, stage: str, skipped: bool) -> None:
        if stage in self._tasks:
            self._bars.update(self._tasks[stage], completed=self._bars.tasks[self._tasks[stage]].total)
        if not self._live:
            took = f"{time.time() - self._began[stage]:.1f} s" if stage in self._began else "done before"
            self._console.print(f"{self._name}{stage:<12} {took}", highlight=False)

    def on_wait(self, trainer: SteeringTrainer, stage: str, what: str) -> None:
        self._console.print(f"{self._name}{stage}: waiting for {what}", highlight=False)

    def on_run_end(self, trainer: SteeringTrainer) -> None:
        self.close()

    def close(self) -> None:
        """Take the bars off the screen; also after an error."""
        self._bars.stop()


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

    def on_run_begin(self, trainer: SteeringTrainer) -> None:
        from accelerate import Accelerator

        self._accelerator = Accelerator(log_with=self.names, project_dir=str(trainer.folder.path))
        self._accelerator.init_trackers("steerkit", config={"seed": trainer.args.seed, "layer": trainer.args.layer})

    def on_log(self, trainer: SteeringTrainer, values: Mapping[str, Any]) -> None:
        numbers = {k: v for k, v in values.items() if isinstance(v, int | float)}
        self._accelerator.log(numbers, step=self._step)
        self._step += 1

    def on_run_end(self, trainer: SteeringTrainer) -> None:
        self._accelerator.end_training()
