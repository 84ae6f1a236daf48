"""Peak memory of each way of doing the same work, each in a process of its own.

    python benchmarks/memory.py [--traces 64] [--layers 30]

Peak resident memory above what the process had with the model loaded: of an extraction (all layers × 46 offsets × 6
labels), by steerkit and by a single pass that saves every block's output; of a steered sweep and an unsteered
`model.generate` in batches of the same size. And of extractions from so many traces and from sixteen times as many, by
a model of fewer blocks: memory should not grow.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from steerkit.bench.measure import Question, Result, result, write
from steerkit.bench.table import text_table

RESULTS = Path(__file__).parent / "results.json"
BATCH = 8  # traces
ROWS = 64  # of a generation batch
MIB = 2**20
MORE, FEW_BLOCKS = 16, 4  # times the traces, and the blocks of the model that reads them


def peak() -> int:
    """Bytes: the most that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def work(name: str, traces: int, layers: int) -> Callable[[], object]:
    """What is done in the process."""
    import peer_extraction as px
    from models import smollm2_shaped

    from steerkit import registry
    from steerkit.bench.sweep import ending, make_sweep
    from steerkit.bench.traces import LABELS, random_traces
    from steerkit.extraction import extract
    from steerkit.sampling import Sampling

    lm = smollm2_shaped(layers)
    if name.startswith("extraction"):
        items = random_traces(lm.config.vocab_size, traces, 500)
        if name == "extraction: steerkit":
            extractor = registry.get("extractors", "offset-window")(windows=[(px.FIRST, px.LAST)])
            return lambda: extract(lm, items, extractor, LABELS)
        return lambda: px.sums_by_saving(px.by_nnsight(lm), items, BATCH)

    def sweep() -> None:
        with ending(lm, None) as endless:
            steerer = registry.get("steerers", "residual-add")()
            made = make_sweep(endless, steerer, prompts=8, conditions=ROWS // 8, new_tokens=64, sampling=Sampling())
            made.by_steerkit(ROWS) if name == "sweep: steerkit" else made.by_transformers(ROWS)

    return sweep


def measured(name: str, traces: int, layers: int) -> int:
    """Bytes that a work adds, in a fresh process."""
    words = [sys.executable, __file__, "--one", name, "--traces", str(traces), "--layers", str(layers)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


QUESTIONS = (
    ("extraction: steerkit", "extraction: nnsight", 1.0),
    ("sweep: steerkit", "sweep: model.generate", 1.0),
)


def run(traces: int = 64, layers: int = 30) -> list[Result]:
    """Measure everything."""
    names = dict.fromkeys(name for ours, theirs, _ in QUESTIONS for name in (ours, theirs))
    added = {name: measured(name, traces, layers) for name in names}
    results = []
    for ours, theirs, goal in QUESTIONS:
        what, _, other = theirs.partition(": ")
        note = f"{added[ours] / MIB:,.0f} and {added[theirs] / MIB:,.0f} MiB above the loaded model"
        question = Question(f"peak memory, {what}: steerkit / {other}", ours, theirs, goal, note=note)
        results.append(result(question, [added[ours] / max(added[theirs], 1)]))
    few, many = (measured(QUESTIONS[0][0], n, min(layers, FEW_BLOCKS)) for n in (traces, MORE * traces))
    note = f"{few / MIB:,.0f} and {many / MIB:,.0f} MiB above the loaded model, {min(layers, FEW_BLOCKS)} blocks"
    question = Question(f"peak memory, extraction: {MORE * traces:,} traces / {traces}", "", "", 1.15, note=note)
    return [*results, result(question, [many / max(few, 1)])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=int, default=64)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        torch.set_num_threads(1)
        do = work(args.one, args.traces, args.layers)
        with suppress(OSError):  # Linux: what loading took for a moment doesn't count
            Path("/proc/self/clear_refs").write_text("5")
        before = peak()
        do()
        print(peak() - before)
    else:
        results = run(args.traces, args.layers)
        print(text_table(results), *(found.note for found in results), sep="\n")
        write(results, RESULTS, keep=True)


if __name__ == "__main__":
    main()
