"""Generation in chunks that are kept: the plan is on disk, and a chunk is what a kill can lose."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonlines

from steerkit.files import append_jsonl, atomic, read_whole_lines, write_json
from steerkit.generation import Generated, GenerationRow
from steerkit.threads import use_threads

if TYPE_CHECKING:
    from steerkit.trainer import SteeringTrainer

CHUNK = 8  # batches


@dataclass(frozen=True)
class Job:
    """One text to generate: who generates it, the row, and the names that identify it on disk."""

    target: str
    row: GenerationRow
    names: tuple[str, ...]


def generate_all(
    trainer: SteeringTrainer,
    stage: str,
    key: str,
    path: Path,
    jobs: Sequence[Job],
    describe: Callable[[Job, Generated], dict[str, Any]],
) -> list[dict[str, Any]]:
    """Generate the jobs that `path` doesn't hold yet; every chunk is appended and flushed as one block.

    Args:
        key: digest of all that the texts depend on; rows that were made for another key are made anew.

    Returns:
        All rows of the stage in `path`, in the order of the plan.
    """
    args = trainer.args
    plan = _plan(trainer, stage, key, jobs)
    by_name = {job.names: job for job in jobs}
    rows = read_whole_lines(path)
    done = _whole_chunks(rows, stage, key, plan)
    kept = [row for row in rows if row["stage"] != stage or (row["plan"] == key and row["chunk"] in done)]
    if len(kept) < len(rows):  # half a chunk from a torn write, or another plan's
        with atomic(path) as temporary, jsonlines.open(temporary, "w") as out:
            out.write_all(kept)
    ended = 0

    def under_way(before: int, more: int) -> None:
        trainer.events.on_progress(trainer, stage, before + more, len(jobs))

    with use_threads(plan.threads):
        for number, names in enumerate(plan.chunks):
            if number not in done:
                chunk = [by_name[name] for name in names]
                texts = trainer.engine.generate(
                    chunk[0].target, [job.row for job in chunk], max_new_tokens=args.max_new_tokens,
                    temperature=args.temperature, batch_size=plan.batch_size,
                    progress=partial(under_way, ended),
                )  # fmt: skip
                new = [
                    {"stage": stage, "plan": key, "chunk": number, **describe(job, text)}
                    for job, text in zip(chunk, texts, strict=True)
                ]
                append_jsonl(path, new)
                kept += new
            ended += len(names)
            trainer.events.on_batch_end(trainer, stage, ended, len(jobs))
    return [row for row in kept if row["stage"] == stage]


@dataclass(frozen=True)
class Plan:
    """A stage's chunks by name, rows at a time, and CPU threads: the same plan gives the same texts."""

    threads: int
    batch_size: int
    chunks: list[list[tuple[str, ...]]]


def _chunks(jobs: Sequence[Job], size: int) -> list[list[tuple[str, ...]]]:
    """Jobs of one target in the order given, `size` a chunk."""
    found: list[list[tuple[str, ...]]] = []
    for target in dict.fromkeys(job.target for job in jobs):
        own = [job.names for job in jobs if job.target == target]
        found += [list(part) for part in (own[i : i + size] for i in range(0, len(own), size))]
    return found


def _plan(trainer: SteeringTrainer, stage: str, key: str, jobs: Sequence[Job]) -> Plan:
    """The stage's plan: as the folder has it, else a new one."""
    path = trainer.folder / f"plans/{stage}.json"
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["key"] == key:
            chunks = [[tuple(name) for name in chunk] for chunk in found["chunks"]]
            return Plan(found["threads"], found["batch_size"], chunks)
    size = trainer.args.per_device_batch_size
    plan = Plan(trainer.thread_count(), size, _chunks(jobs, trainer.args.save_rows or CHUNK * size))
    write_json(path, {"key": key, **asdict(plan)})
    return plan


def _whole_chunks(rows: Sequence[dict[str, Any]], stage: str, key: str, plan: Plan) -> set[int]:
    counts: dict[int, int] = {}
    for row in rows:
        if row["stage"] == stage and row["plan"] == key:
            counts[row["chunk"]] = counts.get(row["chunk"], 0) + 1
    return {number for number, names in enumerate(plan.chunks) if counts.get(number, 0) == len(names)}
