"""What the ray executor costs, and what a second worker gains.

    python benchmarks/executors.py [--rounds 5] [--size quick]

Two figures, both on this machine with one CPU thread a worker, by the clock:

- pieces of texts of the embedded model by two workers, against the same pieces by one;
- the same pieces with no work in them, against the pieces with their work, by one worker: what sending a piece and
  receiving its texts costs beside generating them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from options import parser_of
from steerkit_plugins.executors.ray.cluster import Cluster

from steerkit import registry
from steerkit.artifacts import PluginSpec
from steerkit.bench.measure import Question, Result, machine, ratio, result, settle, write
from steerkit.bench.table import text_table
from steerkit.generation.sampling import Sampling
from steerkit.generation.stream import GenerationRow
from steerkit.models.models import Models
from steerkit.parts import Executor
from steerkit.steps.texts import Job, TextPiece, generate

SIZES = {"full": (24, 64, 64), "quick": (12, 32, 32), "smallest": (2, 2, 2)}  # pieces, texts a piece, new tokens
EMPTY = 20  # times as many pieces without work: one takes too little time to be measured

Pieces = Sequence[tuple[int, TextPiece]]


def make_pieces(size: str) -> Pieces:
    """Numbered pieces of texts."""
    count, texts, tokens = SIZES[size]
    rows = [GenerationRow([2, *range(10, 40)], number) for number in range(count * texts)]
    jobs = [Job("m", row, (number,)) for number, row in enumerate(rows)]
    engine, sampling = PluginSpec(name="hf"), Sampling()
    return [
        (n, TextPiece(tuple(jobs[n * texts : (n + 1) * texts]), engine, tokens, sampling, texts, 1))
        for n in range(count)
    ]


def empty(models: Any, piece: TextPiece) -> list[dict[str, Any]]:
    """As large a result as that of the work."""
    return [{"ids": [7] * piece.max_new_tokens, "finished": True, "broken": ""} for _ in piece.jobs]


def process(models: Any, piece: Any) -> int:
    """Which process this is."""
    return os.getpid()


def seconds(executor: Executor, work: Callable[[Any, Any], Any], pieces: Pieces, models: Models) -> float:
    """Seconds a piece, by the clock: most of the work is done in other processes."""
    begin = time.perf_counter()
    done = sum(1 for _ in executor.map(work, pieces, models, lambda number, units: None))
    return (time.perf_counter() - begin) / done


def ready(workers: int, pieces: Pieces, models: Models) -> Executor:
    """An executor all of whose workers have started and loaded the model."""
    executor: Executor = registry.build("executors", PluginSpec(name="ray", workers=workers))
    seen: set[int] = set()
    while len(seen) < workers:
        seen |= {pid for _, pid in executor.map(process, pieces, models, lambda number, units: None)}
    seconds(executor, generate, pieces, models)
    return executor


def run(rounds: int, size: str = "full") -> list[Result]:
    """Measure and print."""
    settle(1)
    models, pieces = Models({"m": "pocket:reasoning"}), make_pieces(size)
    many = [(number, pieces[number % len(pieces)][1]) for number in range(EMPTY * len(pieces))]
    cluster = Cluster(registry.get("executors", "ray").Config(workers=3), gpus_wanted=False)
    one, two = ready(1, pieces, models), ready(2, pieces, models)
    try:
        gains, costs, own = [], [], []
        for _ in range(rounds):
            alone = seconds(one, generate, pieces, models)
            gains.append(ratio(alone, seconds(two, generate, pieces, models), "two workers"))
            own.append(seconds(one, empty, many, models))
            costs.append(ratio(own[-1], alone, "a piece without work"))
    finally:
        one.close()
        two.close()
        cluster.leave()
    count, texts, tokens = SIZES[size]
    note = f"{count} pieces of {texts} texts of {tokens} tokens"
    cost = f"{note}; {1e3 * sorted(own)[len(own) // 2]:.1f} ms a piece"
    print(f"{note}; {machine()}", flush=True)
    return [
        result(Question("ray: two workers, times as fast as one", "two", "one", 1.7, least=True, note=note), gains),
        result(Question("ray: a piece without work / with its work", "empty", "whole", 0.05, note=cost), costs),
    ]


def main() -> None:
    args = parser_of(__doc__, rounds=5).parse_args()
    results = run(args.rounds, args.size)
    print(text_table(results))
    write(results, args.out, keep=True)


if __name__ == "__main__":
    main()
