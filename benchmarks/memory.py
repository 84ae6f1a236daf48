"""Peak memory of each way of doing the same work, each in a process of its own (Linux).

    python benchmarks/memory.py [--size quick]

Peak resident memory above what the process had with the model loaded: of an extraction (all layers × 46 offsets × 6
labels), by steerkit and by a single pass that saves every block's output; of a steered sweep and an unsteered
`model.generate` in batches of the same size; of gradients of all layers and a training step's forward and backward
pass. And of extractions from so many traces and from sixteen times as many, by a model of fewer blocks, and of
gradients: memory should not grow.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from models import BLOCKS, smollm2_shaped
from options import parser_of, there

from steerkit.bench.measure import Question, Result, ratio, result, write
from steerkit.bench.peak import begin_peak, peak
from steerkit.bench.table import text_table

BATCH = 8  # traces
ROWS = 64  # of a generation batch
MIB = 2**20
MORE, FEW_BLOCKS = 16, 4  # times the traces, and the blocks of the model that reads them
TRACES = {"full": (64, 500), "quick": (16, 500), "smallest": (4, 120)}  # and their mean length

# Works are forked from a small process that has done nothing but import.
CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["torch", "transformers.models.llama", "steerkit.bench.sweep", "steerkit.extraction.extract"]
)


def work(name: str, size: str, layers: int, traces: int) -> Callable[[], object]:
    """What is done in the process."""
    import peer_extraction as px

    from steerkit import registry
    from steerkit.bench.sweep import ending, make_sweep
    from steerkit.bench.traces import LABELS, random_traces
    from steerkit.extraction.extract import extract
    from steerkit.generation.sampling import Sampling

    lm = smollm2_shaped(size, layers)
    if name.startswith("extraction"):
        items = random_traces(lm.config.vocab_size, traces, TRACES[size][1])
        if name == "extraction: steerkit":
            extractor = registry.get("extractors", "offset-window")(windows=[(px.FIRST, px.LAST)])
            return lambda: extract(lm, items, extractor, LABELS)
        return lambda: px.sums_by_saving(px.by_nnsight(lm), items, BATCH)
    if name.startswith("gradients"):
        from gradients import plain_passes, reading, rows_of

        rows = rows_of(lm, traces, TRACES[size][1], equal=True)  # so that few rows fill a batch, too
        return reading(lm, rows) if name == "gradients: steerkit" else plain_passes(lm, rows, parameters=True)

    def sweep() -> None:
        with ending(lm, None) as endless:
            steerer = registry.get("steerers", "residual-add")()
            made = make_sweep(
                endless,
                steerer,
                prompts=8,
                conditions=ROWS // 8,
                new_tokens=4 if size == "smallest" else 64,
                sampling=Sampling(),
            )
            made.by_steerkit(ROWS) if name == "sweep: steerkit" else made.by_transformers(ROWS)

    return sweep


def added_here(name: str, size: str, layers: int, traces: int) -> int:
    """Bytes that a work adds to this process at most."""
    torch.set_num_threads(1)
    do = work(name, size, layers, traces)
    before = begin_peak()  # what loading took for a moment doesn't count
    do()
    return peak() - before


def added(name: str, size: str, layers: int, traces: int) -> int:
    """Bytes that a work adds, in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=CONTEXT) as pool:
        return pool.submit(added_here, name, size, layers, traces).result()


def compared(name: str, one: int, other: int, goal: float, more: str = "") -> Result:
    """The ratio of two peaks."""
    note = f"{one / MIB:,.0f} and {other / MIB:,.0f} MiB above the loaded model{more}"
    return result(Question(name, "", "", goal, note=note), [ratio(one, other, name)])


def run(size: str = "full") -> list[Result]:
    """Measure everything."""
    layers, traces = BLOCKS[size], TRACES[size][0]
    results = []
    if there("nnsight"):
        ours, theirs = (added(f"extraction: {name}", size, layers, traces) for name in ("steerkit", "nnsight"))
        results.append(compared("peak memory, extraction: steerkit / nnsight", ours, theirs, 1.0))
    ours, theirs = (added(f"sweep: {name}", size, layers, traces) for name in ("steerkit", "model.generate"))
    results.append(compared("peak memory, sweep: steerkit / model.generate", ours, theirs, 1.0))
    rows = traces // 4
    ours, theirs = (added(f"gradients: {name}", size, layers, rows) for name in ("steerkit", "training"))
    results.append(compared("peak memory, gradients of all layers / forward and backward pass", ours, theirs, 1.0))
    blocks = min(layers, FEW_BLOCKS)
    for name, count in (("extraction", traces), ("gradients", rows)):
        many, few = (added(f"{name}: steerkit", size, blocks, n) for n in (MORE * count, count))
        title = f"peak memory, {name}: {MORE * count:,} traces / {count}"
        results.append(compared(title, many, few, 1.15, f", {blocks} blocks"))
    return results


def main() -> None:
    args = parser_of(__doc__).parse_args()
    results = run(args.size)
    print(text_table(results), *(found.note for found in results), sep="\n")
    write(results, args.out, keep=True)


if __name__ == "__main__":
    main()
