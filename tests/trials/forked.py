"""Whole runs in forked processes: torch is imported once, and a run can be hit at a moment of its processor time."""

from __future__ import annotations

import io
import os
import resource
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SETTINGS = (
    "prompts.extract=6",
    "prompts.choose=1",
    "prompts.test=2",
    "max_new_tokens=16",
    "per_device_batch_size=3",
    "save_rows=3",
    "resamples=100",
    "threads=1",
    "batch_tokens=120",
    "fitter.label=initializing",
    "extractor.windows=[[-4, -1]]",
    "extractor.sweep=null",
    "fitter.window=[-4, -1]",
    "strengths=[30]",
    "experiments=[transfer, lens, projection, agreement, texts]",
    "perplexity=true",
    "draws=2",
    "folds=2",
    "agreement.judge={name: keyword, keywords: [first], label: initializing}",
)
STEPS = (
    "start",
    "prompts",
    "chats",
    "traces",
    "spans",
    "statistics.base",
    "statistics.reasoning",
    "vectors",
    "generations.choose",
    "likelihoods.choose",
    "scores.choose",
    "findings.choose",
    "generations.test",
    "likelihoods.test",
    "scores.test",
    "findings.transfer",
    "findings.lens",
    "findings.projection",
    "findings.agreement",
    "findings.texts",
    "results",
    "directions",
    "report",
)
HUNG = 600.0  # seconds after which a run counts as hung


def words_for(folder: Path, *more: str) -> list[str]:
    """Command-line words of the small run into a folder: the embedded pair through every step."""
    words = ["recipe", "run", "backtracking", "--out", str(folder)]
    for setting in (*SETTINGS, *more):
        words += ["--set", setting]
    return words


def set_environment() -> None:
    """What forks need (one thread), offline; before torch is imported."""
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
    os.environ.update(TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", COLUMNS="200")


@dataclass
class Ended:
    """How a run ended.

    Attributes:
        code: exit status; minus the signal where one ended it.
        errors: what it wrote to stderr.
        step: the step that was under way when it was hit, else the last.
        hit: whether it was.
        seconds: processor time of each step.
    """

    code: int = 0
    errors: str = ""
    step: str = ""
    hit: bool = False
    seconds: dict[str, float] = field(default_factory=dict)


def processor_time(pid: int) -> float:
    """Seconds that a process with one thread has run."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def run(
    words: list[str],
    *,
    at: tuple[str, float] | None = None,
    hit: Callable[[int], None] | None = None,
    prepare: Callable[[], object] | None = None,
    figures: bool = True,
) -> Ended:
    """Run a command to its end in a forked process.

    Args:
        at: step, and seconds of processor time into it, at which `hit` is called with the process's id.
        prepare: called in the new process first.
        figures: whether the report draws its figures, which takes longer than all else.
    """
    errors, marks = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        os.dup2(errors[1], 2)
        for end in (*errors, marks[0]):
            os.close(end)
        _become(words, marks[1], prepare, figures)
    os.close(errors[1])
    os.close(marks[1])
    found, text = Ended(), bytearray()
    entered, deadline = 0.0, time.monotonic() + HUNG
    waiting = {errors[0], marks[0]}
    while waiting:
        ready, _, _ = select.select(list(waiting), [], [], 0.001)
        used = processor_time(pid)
        for end in ready:
            data = os.read(end, 65536)
            if not data:
                waiting.discard(end)
            elif end == errors[0]:
                text += data
            else:
                for step in data.decode().split("\n")[:-1]:
                    found.seconds[found.step] = used - entered
                    entered, found.step = used, step
        if hit and at and not found.hit and found.step == at[0] and used - entered >= at[1]:
            found.hit = True
            hit(pid)
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            text += b"\nhung: still running after ten minutes"
            deadline = float("inf")
    os.close(errors[0])
    os.close(marks[0])
    status = os.waitpid(pid, 0)[1]
    found.code = os.waitstatus_to_exitcode(status)
    found.seconds[found.step] = used - entered
    found.errors = text.decode(errors="replace")
    return found


def _become(words: list[str], marks: int, prepare: Callable[[], object] | None, figures: bool) -> None:
    """The command, in place of this forked process; never returns."""
    code = 70
    try:
        import torch

        torch.set_num_threads(1)  # makes a new thread pool in place of the one that a fork leaves unusable

        from steerkit.cli import main
        from steerkit.report import figures as drawing
        from steerkit.report.trackers import JsonlLog

        def told(self: object, run: object, step: str) -> None:
            os.write(marks, f"{step}\n".encode())

        JsonlLog.on_step_begin = told  # type: ignore[method-assign]
        if not figures:
            drawing.draw_all = _none
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = ["steerkit", *words]
        if prepare:
            prepare()
        os.write(marks, b"start\n")
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _none(run: object) -> dict[str, Any]:
    """No figures."""
    return {}


def warm_up(folder: Path, *, figures: bool = True) -> None:
    """Run once in this process: whatever the command imports is then there for all forks.

    Raises:
        RuntimeError: a second thread was left running, and a fork would lack it.
    """
    from tqdm import tqdm

    from steerkit.cli import main
    from steerkit.report import figures as drawing

    tqdm.monitor_interval = 0
    draw = drawing.draw_all
    if not figures:
        drawing.draw_all = _none
    sys.argv = ["steerkit", *words_for(folder)]
    before, said = (sys.stdout, sys.stderr), io.StringIO()
    sys.stdout = sys.stderr = said
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise RuntimeError(f"the run that all others are compared with ended so: {said.getvalue()}") from end
    finally:
        sys.stdout, sys.stderr = before
        drawing.draw_all = draw
    if threading.active_count() > 1:  # (an allocator's own thread is started again in a fork)
        raise RuntimeError(f"{threading.enumerate()} are running; a forked process would lack all but one")
