"""What gradients of all layers cost beside the passes that they take.

    python benchmarks/gradients.py [--rounds 7] [--size quick] [--threads 1]

Gradients at every block's output, with their second moments and cosines with a direction, against a forward and
backward pass of the same batches that keeps nothing: as a training step has it (parameters' gradients too), and to the
token embeddings alone, which is the least that reaches every layer. benchmarks/memory.py has their peak memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from models import smollm2_shaped
from options import parser_of

from steerkit.bench.measure import Question, Result, compare, machine, settle, write
from steerkit.bench.table import text_table
from steerkit.bench.traces import random_traces
from steerkit.data.site import Site
from steerkit.extraction.batching import batches, comfortable_tokens
from steerkit.extraction.gradient_rows import GradientRow, Pair, padded
from steerkit.extraction.gradients import PASS_TOKENS, gradients
from steerkit.models.language_model import LanguageModel

ROWS = {"full": (8, 300), "quick": (8, 300), "smallest": (3, 40)}  # and their mean length


def rows_of(lm: LanguageModel, count: int, mean_length: int, *, equal: bool = False) -> list[GradientRow]:
    """Rows of random ids, a tenth of them prompt; all of one length where that is asked for."""
    items = random_traces(lm.config.vocab_size, count, mean_length, equal=equal)
    return [GradientRow(item.ids, len(item.trace.prompt_ids), id=item.trace.id) for item in items]


def reading(lm: LanguageModel, rows: Sequence[GradientRow], **options: Any) -> Callable[[], None]:
    """Gradients by steerkit."""

    def run() -> None:
        gradients(lm, rows, **options)

    return run


def plain_passes(lm: LanguageModel, rows: Sequence[GradientRow], *, parameters: bool) -> Callable[[], None]:
    """Forward and backward passes in steerkit's own batches, by transformers alone."""
    plan = batches([Pair(row) for row in rows], comfortable_tokens(lm, PASS_TOKENS))
    parts = [padded([pair.row for pair in batch], "token") for batch in plan]

    def run() -> None:
        lm.model.requires_grad_(parameters)
        hook = lm.model.get_input_embeddings().register_forward_hook(lambda m, args, out: out.requires_grad_())
        for part in parts:
            labels = torch.where(part.response, part.ids, -100)
            lm.model(input_ids=part.ids, labels=labels, use_cache=False).loss.backward()
            lm.model.zero_grad()
        hook.remove()

    return run


def run(rounds: int, size: str = "full", threads: int = 1) -> list[Result]:
    """Measure everything."""
    settle(threads or 1)
    lm = smollm2_shaped(size)
    count, length = ROWS[size]
    rows = rows_of(lm, count, length)
    direction = {Site(layer): torch.ones(lm.width) for layer in range(lm.depth)}
    print(f"{lm.name}: {sum(len(row.ids) for row in rows)} tokens; {machine()}", flush=True)
    works: dict[str, Callable[[], None]] = {
        "gradients": reading(lm, rows, directions={"v": direction}),
        "sums": reading(lm, rows, moments=None),
        "training": plain_passes(lm, rows, parameters=True),
        "activations": plain_passes(lm, rows, parameters=False),
    }
    name, note = f"{lm.name}: gradients of all layers", f"{count} rows of {length} tokens in the mean"
    return compare(
        works,
        [
            Question(f"{name} / forward and backward of a training step", "gradients", "training", 1.0, note=note),
            Question(f"{name} / forward and backward to the embeddings", "gradients", "activations", 1.1, note=note),
            Question(f"{name}, no second moments / the same", "sums", "activations", 1.1, note=note),
        ],
        rounds,
    )


def main() -> None:
    args = parser_of(__doc__, rounds=7).parse_args()
    results = run(args.rounds, args.size, args.threads)
    print(text_table(results))
    write(results, args.out, keep=True)


if __name__ == "__main__":
    main()
