"""Texts in pieces: rows of one model that are generated together. A piece is what a kill can lose."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from steerkit.artifacts import PluginSpec
from steerkit.context import Run
from steerkit.data.trace import Prompt
from steerkit.generation.engine import engine_of
from steerkit.generation.generation_config import sampling_with
from steerkit.generation.sampling import Sampling
from steerkit.generation.stream import GenerationRow, end_ids
from steerkit.models.limits import check_ids, check_lengths
from steerkit.models.models import Models
from steerkit.models.threads import fastest_thread_count, use_threads
from steerkit.settings import Generating

BATCHES = 8  # a piece holds
ROWS = 64  # of such a batch, where its size is measured


@dataclass(frozen=True)
class Job:
    """One text to generate: who generates it, the row, and what identifies it."""

    model: str
    row: GenerationRow
    name: tuple[Any, ...]


@dataclass(frozen=True)
class TextPiece:
    """Jobs of one model, and how they are generated."""

    jobs: tuple[Job, ...]
    engine: PluginSpec
    max_new_tokens: int
    sampling: Sampling
    batch_size: int = 0
    threads: int = 0

    def __len__(self) -> int:
        return len(self.jobs)


def sampling_of(run: Run) -> Sampling:
    """How texts are sampled: as the settings say, or as the writer's generation_config does.

    Raises:
        SteerkitError: the model's own is asked for, and it has none, or one that can't be followed.
    """
    return sampling_with(run.peek(Generating), run.models[run.models.writer])


def decoding(run: Run, models: Iterable[str]) -> list[Any]:
    """JSON of how these models' texts are drawn, and of the token ids that end them: part of a step's key."""
    origins = dict.fromkeys(map(run.models.origin, models))
    return [sampling_of(run).model_dump(), *(end_ids(run.models[name]) for name in origins)]


def pieces_of(run: Run, jobs: Sequence[Job]) -> list[TextPiece]:
    """Jobs in pieces: those of one model in the order given. Rows at a time and threads are measured once."""
    s = run.use(Generating)
    sampling = sampling_of(run)
    if s.sampling == "model":
        run.log(sampling=sampling.model_dump(exclude_none=True), sampling_of=run.models[run.models.writer].name)
    size = s.per_device_batch_size
    rows = s.save_rows or (ROWS if size == "auto" else size) * BATCHES
    found = [
        TextPiece(tuple(own[i : i + rows]), s.engine, s.max_new_tokens, sampling)
        for own in by_model(jobs)
        for i in range(0, len(own), rows)
    ]
    if not found:
        return []
    longest = max(jobs, key=lambda job: len(job.row.prompt_ids))
    most = min(rows, len(jobs))
    asked = Asked(replace(found[0], jobs=(longest,)), most, 0 if size == "auto" else size, run.args.threads)
    measured = run.measured(measure, asked)
    run.log(step=run.title, **measured)
    return [replace(piece, batch_size=measured["batch_size"], threads=measured["threads"]) for piece in found]


def by_model(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    """The jobs of each model, in the order in which pieces hold them."""
    for model in dict.fromkeys(job.model for job in jobs):
        yield [job for job in jobs if job.model == model]


@dataclass(frozen=True)
class Asked:
    """What is measured: threads, and how many rows of the longest prompt fit and are fastest; 0 for what is open."""

    piece: TextPiece
    most: int
    batch_size: int
    threads: int


def measure(models: Models, asked: Asked) -> dict[str, Any]:
    """Rows at a time and CPU threads, and what the model runs with."""
    (job,) = asked.piece.jobs
    lm = models[job.model]
    threads = asked.threads or fastest_thread_count(lm.width, asked.batch_size or ROWS, lm.device)
    size = asked.batch_size
    if not size:
        with use_threads(threads):
            engine = engine_of(models, asked.piece.engine)
            size = engine.batch_size(job.model, job.row.prompt_ids, asked.piece.max_new_tokens, asked.most)
    return {"batch_size": size, "threads": threads, **lm.setup}


def generate(models: Models, piece: TextPiece) -> list[dict[str, Any]]:
    """JSON of the texts of a piece, in the jobs' order."""
    with use_threads(piece.threads):
        texts = engine_of(models, piece.engine).generate(
            piece.jobs[0].model,
            [job.row for job in piece.jobs],
            max_new_tokens=piece.max_new_tokens,
            sampling=piece.sampling,
            batch_size=piece.batch_size,
            progress=models.progress,
        )
    return [{"ids": text.ids, "finished": text.finished, "broken": text.broken} for text in texts]


def check_limits(run: Run, prompts: Sequence[Prompt], models: Iterable[str]) -> None:
    """Raises: SteerkitError when a model has too few ids or positions for the prompts and what it writes on them."""
    if not prompts:
        return
    own = [run.chats.ids(prompt.prompt) for prompt in prompts]
    longest = max(range(len(own)), key=lambda number: len(own[number]))
    what = f"prompt {prompts[longest].id!r} with max_new_tokens"
    for name in dict.fromkeys(map(run.models.origin, models)):
        check_ids(run.models[name], [run.models.ids_for(name, ids) for ids in own])
        check_lengths(run.models[name], len(own[longest]) + run.use(Generating).max_new_tokens - 1, what)
