"""Callbacks: every event reaches every callback in order; a tracker that isn't there is said so."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from steerkit import SteeringTrainer, load_recipe
from steerkit.callbacks import Events, SteeringCallback
from steerkit.errors import SteerkitError
from steerkit.report.progress import RichProgress
from steerkit.report.trackers import Trackers


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


def test_progress_in_a_log_file_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = SimpleNamespace(time=lambda: clock.now, now=0.0)
    monkeypatch.setattr("steerkit.report.progress.time", clock)
    shown, run = RichProgress(), SimpleNamespace(folder=SimpleNamespace(path="runs/mine"))
    for done_before in (False, True):
        shown.on_run_begin(run)
        if not done_before:
            shown.on_step_begin(run, "traces")
            shown.on_log(run, {"step": "traces", "kept": 12, "pieces": 40})
            for second in range(20):
                clock.now = float(second)
                shown.on_progress(run, "traces", second, 40)
        shown.on_step_end(run, "traces", done_before)
        shown.on_run_end(run)
    said = [" ".join(line.split()) for line in capsys.readouterr().err.splitlines()]
    assert said == [
        "traces 12 of 40 pieces kept",
        *(f"traces {second} of 40" for second in (2, 4, 8, 16)),
        "traces 19.0 s",
        "all steps 19.0 s, in runs/mine",
        "traces done before",
        "all steps 0.0 s, in runs/mine",
    ]


def test_callbacks_are_closed_after_an_error(tmp_path: Path) -> None:
    class Broken(SteeringCallback):
        closed = False

        def on_run_begin(self, run: Any) -> None:
            raise RuntimeError("no luck")

        def close(self) -> None:
            self.closed = True

    broken = Broken()
    trainer = SteeringTrainer.from_recipe(
        load_recipe("backtracking", [f"output_dir={tmp_path}/run"]), callbacks=[broken]
    )
    with pytest.raises(RuntimeError, match="no luck"):
        trainer.run()
    assert broken.closed


def test_a_tracker_that_is_not_installed() -> None:
    with pytest.raises(SteerkitError, match=r"report_to: aim not installed: pip install aim"):
        Trackers(["aim"])
