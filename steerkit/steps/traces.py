"""Traces: what the reasoning model writes on the extraction prompts, or what a file says it wrote."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.data.importing import read_traces
from steerkit.data.tokens import encode_trace, make_trace, placed_again
from steerkit.data.trace import Prompt, Trace, from_json, read_rows, write_rows
from steerkit.errors import InputError, Problem
from steerkit.generation.stream import Generated, GenerationRow
from steerkit.stats.noise import key_of
from steerkit.steps.batches import Job, generate_part, merged_rows

if TYPE_CHECKING:
    from steerkit.run import SteeringTrainer

FILE = "traces.jsonl"


def trace_jobs(trainer: SteeringTrainer, prompts: list[Prompt]) -> list[Job]:
    """A job a prompt, unsteered."""
    seed = trainer.args.seed
    return [
        Job("reasoning", GenerationRow(trainer.chats.ids(p.prompt), key_of(seed, "trace", p.id)), (p.id,))
        for p in prompts
    ]


def traces(trainer: SteeringTrainer, prompts: list[Prompt]) -> list[Trace]:
    """Traces of the run, generated or read."""
    args, path = trainer.args, trainer.folder / FILE

    def make(key: str) -> tuple[list[Trace], list[str]]:
        if args.traces:
            found = imported(trainer, Path(args.traces))
            if opened := trainer.chats.opened_twice(found):
                trainer.log(opened_twice=opened)
        else:
            found = [from_json(Trace, row) for row in merged_rows(trainer, "traces")]
        write_rows(path, found)
        trainer.log(traces=len(found), mean_tokens=sum(len(t.ids) for t in found) / len(found))
        return found, [FILE]

    inputs = [
        trainer.keys["prompts"],
        trainer.identities["reasoning"],
        trainer.identities["reasoning tokenizer"],
        args.max_new_tokens,
        trainer.decoding("reasoning"),
        args.seed,
        args.think_end,
        trainer.chats.settings(),
        args.per_device_batch_size,
        args.bf16,
        args.save_rows,
        trainer.identities["engine"],
        trainer.identities["traces"],
    ]
    part = None if args.traces else partial(make_traces, trainer, prompts)
    return trainer.stage("traces", inputs, make, lambda: read_rows(path, Trace), part=part)


def imported(trainer: SteeringTrainer, path: Path) -> list[Trace]:
    """Traces of a file, their tokens placed by the reasoning model's tokenizer.

    Raises:
        InputError: traces whose ids are not those of their text: another tokenizer made them.
    """
    args, tokenizer = trainer.args, trainer.pair.reasoning.tokenizer
    read = read_traces(path, partial(encode_trace, tokenizer, marker=args.think_end, chats=trainer.chats))
    found = [placed_again(tokenizer, trace) for trace in read]
    wrong = [
        Problem(
            f"{path}: trace {trace.id!r}",
            f"its 'ids' are not its text under the tokenizer of {trainer.pair.reasoning.name}",
            "leave out 'ids', 'starts' and 'continues' (or give rows of 'prompt' and 'trace') to have it encoded anew",
        )
        for trace, placed in zip(read, found, strict=True)
        if placed is None
    ]
    if wrong:
        raise InputError(str(path), wrong)
    return [trace for trace in found if trace is not None]


def make_traces(trainer: SteeringTrainer, prompts: list[Prompt]) -> None:
    """Generate this process's part of the traces, one on each prompt."""
    by_id = {p.id: p for p in prompts}
    tokenizer, marker = trainer.pair.reasoning.tokenizer, trainer.args.think_end

    def describe(job: Job, text: Generated) -> dict[str, Any]:
        prompt = by_id[job.names[0]]
        return asdict(make_trace(tokenizer, prompt, job.row.prompt_ids, text.ids, text.finished, marker))

    generate_part(trainer, "traces", trace_jobs(trainer, prompts), describe)
