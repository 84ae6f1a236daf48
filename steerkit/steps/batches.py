"""Generation in chunks that are kept and dealt to shards: the plan is on disk, a chunk is what a kill can lose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from steerkit.generation.stream import Generated, GenerationRow
from steerkit.models.threads import use_threads
from steerkit.store.files import append_jsonl, read_sealed, read_whole_lines, write_jsonl, write_sealed

if TYPE_CHECKING:
    from steerkit.run import SteeringTrainer

BATCHES = 8  # a chunk
CHUNK = 64  # rows of such a batch, where its size is measured


@dataclass(frozen=True)
class Job:
    """One text to generate: who generates it, the row, and the names that identify it on disk."""

    target: str
    row: GenerationRow
    names: tuple[str, ...]


def generate_part(
    trainer: SteeringTrainer, stage: str, jobs: Sequence[Job], describe: Callable[[Job, Generated], dict[str, Any]]
) -> None:
    """Generate this process's chunks that its part doesn't hold yet; each is appended and flushed as one block."""
    args, path, key = trainer.args, trainer.parts(stage).growing, trainer.keys[stage]
    with trainer.folder.held():
        plan = _plan(trainer, stage, key, jobs)
    own = trainer.shard.of_all(range(len(plan.chunks)))
    by_name = {job.names: job for job in jobs}
    rows = read_whole_lines(path)
    done = _whole_chunks(rows, plan)
    kept = [row for row in rows if row["chunk"] in done]
    if len(kept) < len(rows) or not path.exists():  # half a chunk from a torn write
        write_jsonl(path, kept)
    ended, total = 0, sum(len(plan.chunks[number]) for number in own)

    def under_way(before: int, more: int) -> None:
        trainer.events.on_progress(trainer, stage, before + more, total)

    with use_threads(plan.threads):
        for number in own:
            chunk = [by_name[name] for name in plan.chunks[number]]
            if number not in done:
                texts = trainer.engine.generate(
                    chunk[0].target,
                    [job.row for job in chunk],
                    max_new_tokens=args.max_new_tokens,
                    sampling=trainer.sampling,
                    batch_size=plan.batch_size,
                    progress=partial(under_way, ended),
                )
                append_jsonl(
                    path,
                    (
                        {"stage": stage, "chunk": number, **describe(job, text)}
                        for job, text in zip(chunk, texts, strict=True)
                    ),
                )
            ended += len(chunk)
            trainer.events.on_batch_end(trainer, stage, ended, total)


def merged_rows(trainer: SteeringTrainer, stage: str) -> list[dict[str, Any]]:
    """All rows of the stage's parts, in the order of the plan."""
    rows = [row for path in trainer.parts(stage).files for row in read_whole_lines(path)]
    return sorted(rows, key=lambda row: int(row["chunk"]))  # a chunk's own rows stay in their order


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
        found = read_sealed(path, "delete it: it is made again, as the recipe says")
        if found["key"] == key:
            chunks = [[tuple(name) for name in chunk] for chunk in found["chunks"]]
            return Plan(found["threads"], found["batch_size"], chunks)
    args, threads = trainer.args, trainer.thread_count()
    size = args.per_device_batch_size
    # By the recipe alone: shards that can't see each other deal the same chunks.
    chunk = args.save_rows or (CHUNK if size == "auto" else size) * BATCHES
    if size == "auto":
        longest = max(jobs, key=lambda job: len(job.row.prompt_ids))
        with use_threads(threads):
            most = min(chunk, len(jobs))
            size = trainer.engine.batch_size(longest.target, longest.row.prompt_ids, args.max_new_tokens, most)
    plan = Plan(threads, size, _chunks(jobs, chunk))
    write_sealed(path, {"key": key, **asdict(plan)})
    trainer.log(stage=stage, batch_size=size, threads=threads, **trainer.pair.reasoning.setup)
    return plan


def _whole_chunks(rows: Sequence[dict[str, Any]], plan: Plan) -> set[int]:
    counts = Counter(row["chunk"] for row in rows)
    return {number for number, names in enumerate(plan.chunks) if counts[number] == len(names)}
