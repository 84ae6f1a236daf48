"""How much is measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is measured. The defaults take about a minute on a small model; `FULL` is what claims are made on.

    `SMALLEST` shows that a measurement runs, and its ratios mean nothing.

    Attributes:
        traces, trace_tokens: that extraction reads, and their mean length.
        prompts, conditions, new_tokens, prompt_tokens: of the sweep.
        batch_sizes: tried for generation, each engine having its own best.
        trace_batches: traces in a batch, tried for the padded forward.
        alone: rows of the sweep that are generated one at a time (their cost is scaled to the whole).
        steps: decode steps in one round of the hook's measurement.
        rounds: of every measurement.
    """

    traces: int = 16
    trace_tokens: int = 200
    prompts: int = 4
    conditions: int = 12
    new_tokens: int = 24
    prompt_tokens: int = 32
    batch_sizes: tuple[int, ...] = (16, 48)
    trace_batches: tuple[int, ...] = (1, 4, 16)
    alone: int = 4
    steps: int = 24
    rounds: int = 5


FULL = Sizes(
    traces=64,
    trace_tokens=500,
    prompts=8,
    conditions=48,
    new_tokens=64,
    batch_sizes=(16, 32, 64, 128, 384),
    trace_batches=(1, 2, 4, 8, 16, 32),
    alone=8,
    steps=64,
    rounds=7,
)
SMALLEST = Sizes(
    traces=3,
    trace_tokens=80,
    prompts=3,
    conditions=4,
    new_tokens=8,
    prompt_tokens=6,
    batch_sizes=(6, 12),
    trace_batches=(1, 2),
    alone=1,
    steps=3,
    rounds=2,
)
SIZES = {"full": FULL, "quick": Sizes(), "smallest": SMALLEST}
