"""What an intervention costs in training: a LoRA step with and without it, and a plain transformers Trainer's.

    python benchmarks/training.py [--rounds 7] [--size quick] [--threads 1]

A step is one micro-batch's forward and backward, and the optimizer's. The plain Trainer trains the same adapter on the
same batch with transformers' own loss. Peak resident memory (Linux) is above what a process had with the model loaded,
each in a process of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from memory import CONTEXT, compared
from models import smollm2_shaped
from options import parser_of

from steerkit import registry
from steerkit.bench.measure import Question, Result, compare, machine, settle, write
from steerkit.bench.peak import begin_peak, peak
from steerkit.bench.table import text_table
from steerkit.interventions.edits import Edit
from steerkit.models.language_model import LanguageModel
from steerkit.models.threads import fastest_thread_count
from steerkit.training.arguments import make_arguments
from steerkit.training.batches import as_dataset, collator
from steerkit.training.checkpoints import Checkpoints
from steerkit.training.edits import TrainingEdits
from steerkit.training.masks import IGNORED, Encoded

ROWS = {"full": (4, 192), "quick": (4, 96), "smallest": (2, 16)}
"""Rows of a batch, and the tokens of the longest; every other row is a quarter shorter, so that there is padding."""

Step = Callable[[], None]


def rows_of(lm: LanguageModel, size: str) -> list[Encoded]:
    """Random ids; half of a row is its response."""
    count, longest = ROWS[size]
    draw = torch.Generator().manual_seed(0)
    rows = []
    for number in range(count):
        length = longest - (number % 2) * longest // 4
        ids = torch.randint(3, lm.config.vocab_size, (length,), generator=draw).tolist()
        given = length // 2
        rows.append(Encoded(str(number), tuple(ids), (*[IGNORED] * given, *ids[given:]), given))
    return rows


def adapted(size: str) -> LanguageModel:
    """The model with rank 16 on all projections."""
    lora = registry.get("adapters", "lora")(r=16, lora_alpha=32, use_rslora=True)
    adapter: LanguageModel = lora.attach(smollm2_shaped(size), seed=0)
    return adapter


def step_of(kind: str, lm: LanguageModel, size: str, folder: Path) -> Step:
    """One training step: `plain` by transformers, `steered` and `unsteered` by steerkit."""
    from transformers import Trainer

    from steerkit.training.trainer import InterventionTrainer

    rows = rows_of(lm, size)
    arguments = make_arguments({"learning_rate": 1e-5}, folder, 0, lm.device)
    batch = collator(lm.tokenizer)(as_dataset(rows))
    made: Any
    if kind == "plain":
        made = Trainer(model=lm.model, args=arguments)
        batch = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    else:
        direction = torch.nn.functional.normalize(torch.randn(lm.width), dim=0)
        edit = Edit(registry.get("steerers", "residual-add")(), lm.depth // 2, 5.0, direction)
        edits = TrainingEdits(lm, (edit,) if kind == "steered" else (), len(rows))
        objective = registry.get("objectives", "response")()
        made = InterventionTrainer(lm, rows, objective, edits, arguments, Checkpoints(folder, {}, 1), None)
    made.create_optimizer()
    tokens = sum(row.learned for row in rows)

    def step() -> None:
        made.training_step(lm.model, dict(batch), torch.tensor(tokens))
        made.optimizer.step()
        lm.model.zero_grad()

    return step


def added_here(kind: str, size: str) -> int:
    """Bytes that three steps add to this process at most."""
    torch.set_num_threads(1)
    lm = adapted(size)
    with TemporaryDirectory() as folder:
        step = step_of(kind, lm, size, Path(folder))
        before = begin_peak()
        for _ in range(3):
            step()
        return peak() - before


def added(kind: str, size: str) -> int:
    """The same in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=CONTEXT) as pool:
        return pool.submit(added_here, kind, size).result()


def run(rounds: int, size: str = "full", threads: int = 0) -> list[Result]:
    """Measure everything."""
    lm = adapted(size)
    settle(threads or fastest_thread_count(lm.width, ROWS[size][0]))
    print(f"{lm.name}: {lm.depth} blocks × {lm.width}; {machine()}", flush=True)
    with TemporaryDirectory() as folder:
        works = {kind: step_of(kind, lm, size, Path(folder)) for kind in ("steered", "unsteered", "plain")}
        name = f"{lm.name}: LoRA training step"
        questions = [
            Question(f"{name} with an intervention / without", "steered", "unsteered", 1.03),
            Question(f"{name} with an intervention / plain Trainer", "steered", "plain", 1.03),
        ]
        results = compare(works, questions, rounds)
    ours, theirs = (added(kind, size) for kind in ("steered", "plain"))
    return [*results, compared("peak memory, training: steerkit / plain Trainer", ours, theirs, 1.03)]


def main() -> None:
    args = parser_of(__doc__, rounds=7).parse_args()
    results = run(args.rounds, args.size, args.threads)
    print(text_table(results))
    write(results, args.out, keep=True)


if __name__ == "__main__":
    main()
