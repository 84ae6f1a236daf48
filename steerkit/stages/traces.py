"""Traces: what the reasoning model writes on the extraction prompts, or what a file says it wrote."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.errors import InputError, Problem, SteerkitError
from steerkit.files import input_digest
from steerkit.generation import Generated, GenerationRow
from steerkit.noise import key_of
from steerkit.stages.batches import Job, generate_all
from steerkit.tokens import encode_trace, format_prompt, make_trace
from steerkit.trace import Prompt, Trace, from_json, read_jsonl, read_rows, write_rows

if TYPE_CHECKING:
    from steerkit.trainer import SteeringTrainer

FILE = "traces.jsonl"


def trace_jobs(trainer: SteeringTrainer, prompts: list[Prompt]) -> list[Job]:
    """A job a prompt, unsteered."""
    args, tokenizer = trainer.args, trainer.pair.reasoning.tokenizer
    return [
        Job(
            "reasoning",
            GenerationRow(format_prompt(tokenizer, p.prompt, args.chat), key_of(args.seed, "trace", p.id)),
            (p.id,),
        )
        for p in prompts
    ]


def traces(trainer: SteeringTrainer, prompts: list[Prompt]) -> list[Trace]:
    """Traces of the run, generated or read."""
    args, path = trainer.args, trainer.folder / FILE

    def make(key: str) -> tuple[list[Trace], list[str]]:
        if args.traces:
            found = read_traces(trainer, Path(args.traces))
            write_rows(path, found)
        else:
            found = make_traces(trainer, prompts, key)
        trainer.log(traces=len(found), mean_tokens=sum(len(t.ids) for t in found) / len(found))
        return found, [FILE]

    inputs = [
        trainer.keys["prompts"], trainer.pair.reasoning.fingerprint, args.max_new_tokens, args.temperature, args.seed,
        args.think_end, args.chat, args.per_device_batch_size, args.bf16, input_digest(args.traces),
    ]  # fmt: skip
    return trainer.stage("traces", inputs, make, lambda: read_rows(path, Trace))


def make_traces(trainer: SteeringTrainer, prompts: list[Prompt], key: str) -> list[Trace]:
    """Generate a trace on each prompt; `traces.partial.jsonl` grows batch by batch."""
    by_id = {p.id: p for p in prompts}
    tokenizer, marker = trainer.pair.reasoning.tokenizer, trainer.args.think_end

    def describe(job: Job, text: Generated) -> dict[str, Any]:
        prompt = by_id[job.names[0]]
        return asdict(make_trace(tokenizer, prompt, job.row.prompt_ids, text.ids, text.finished, marker))

    partial = trainer.folder / "traces.partial.jsonl"
    rows = generate_all(trainer, "traces", key, partial, trace_jobs(trainer, prompts), describe)
    found = [from_json(Trace, row) for row in rows]
    write_rows(trainer.folder / FILE, found)
    partial.unlink()
    return found


def read_traces(trainer: SteeringTrainer, path: Path) -> list[Trace]:
    """Traces of a file: steerkit's own, or rows with `prompt` and `trace` texts, which are encoded.

    Raises:
        InputError: malformed lines, by number.
        SteerkitError: an id twice, or nothing in it.
    """
    problems: list[Problem] = []
    rows = read_jsonl(path, problems)
    if any(isinstance(row, dict) and "prompt_ids" in row for _, row in rows):
        found = read_rows(path, Trace)
    else:
        found = []
        tokenizer, args = trainer.pair.reasoning.tokenizer, trainer.args
        for number, row in rows:
            if not isinstance(row, dict) or not all(isinstance(row.get(k), str) for k in ("prompt", "trace")):
                problems.append(Problem(f"{path}:{number}", "needs the texts 'prompt' and 'trace'"))
                continue
            prompt = Prompt(id=str(row.get("id", f"t{number:05d}")), prompt=row["prompt"])
            found.append(encode_trace(tokenizer, prompt, row["trace"], args.think_end, args.chat))
    if problems:
        raise InputError(str(path), problems)
    if not found:
        raise SteerkitError(f"{path}: holds no traces; each line is a JSON object with 'prompt' and 'trace'")
    seen: set[str] = set()
    for trace in found:
        if trace.id in seen:
            raise SteerkitError(f"{path}: the trace id {trace.id!r} stands twice; ids must differ")
        seen.add(trace.id)
    return found
