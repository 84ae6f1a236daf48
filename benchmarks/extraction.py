"""What extraction costs beside a plain forward of the same traces, and how its memory grows with their number.

    python benchmarks/extraction.py [--rounds 5] [--traces 64] [--only pocket|smollm2-shaped|memory]

64 traces of unequal length (benchmarks/workload.py), all layers × 46 offsets × 6 labels in one pass, on a random
Llama of SmolLM2-135M's shape and on the embedded model. The forwards have no LM head, no cache and no attention
mask, and get their ids padded beforehand:

- right-padded batches of 4 in the given order: at most 1.0 ×;
- the same, sorted by length: at most 1.0 ×;
- one trace at a time, which pads nothing: at most 1.05 ×;
- traces of equal length, in batches of 4: at most 1.05 ×;
- the layer at a third of the depth alone, against one trace at a time: at most 0.45 × (the last block of that
  third, so a third of the blocks run: 0.33 or, of four blocks, 0.25).

Memory is the peak that extraction adds to a process that has the model and the traces: 1,024 traces against 64. Full
batches and a shard of raw windows that waits to be written come with more traces; nothing comes after that.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from costs import smollm2_shaped, third
from measure import Result, compare, settle, show, write
from workload import workload

from steerkit.extraction import Item, extract
from steerkit.model import LanguageModel, load_model

ROWS = 4  # of a padded batch; more pay for more padding (8: 2.0 times the tokens in the given order, 4: 1.7)


def padded(items: Sequence[Item], rows: int) -> list[torch.Tensor]:
    """Ids in right-padded batches, in the order of the items."""
    found = []
    for begin in range(0, len(items), rows):
        batch = items[begin : begin + rows]
        ids = torch.zeros(len(batch), max(len(item.ids) for item in batch), dtype=torch.long)
        for row, item in enumerate(batch):
            ids[row, : len(item.ids)] = torch.tensor(item.ids)
        found.append(ids)
    return found


def forward(lm: LanguageModel, batches: Sequence[torch.Tensor]) -> Callable[[], None]:
    """A plain forward of the decoder over the batches."""

    def run() -> None:
        with torch.inference_mode():
            for ids in batches:
                lm.decoder(input_ids=ids, use_cache=False)

    return run


def costs(lm: LanguageModel, traces: int, rounds: int) -> list[Result]:
    """Ratios of an extraction to plain forwards of the same traces."""
    work = workload(lm, traces)
    even = workload(lm, max(traces // 4, 1), equal=True)
    given = padded(work.items, ROWS)
    ordered = padded(sorted(work.items, key=lambda item: len(item.ids)), ROWS)
    shares = ", ".join(f"{sum(ids.numel() for ids in b) / work.tokens:.2f}" for b in (given, ordered))
    print(f"{lm.name}: {traces} traces, {work.tokens} tokens; padded in the given order, sorted: {shares} × as many")

    def every_layer() -> None:
        extract(lm, work.items, work.extractor, work.labels)

    def one_layer() -> None:
        extract(lm, work.items, work.extractor, work.labels, layers=[third(lm)])

    def equal_lengths() -> None:
        extract(lm, even.items, even.extractor, even.labels)

    name = f"{lm.name}: extraction"
    return compare(
        {
            "given": forward(lm, given),
            "all layers": every_layer,
            "sorted": forward(lm, ordered),
            "one layer": one_layer,
            "single": forward(lm, padded(work.items, 1)),
            "equal": equal_lengths,
            "equal forward": forward(lm, padded(even.items, ROWS)),
        },
        [
            (f"{name}, all layers / padded forward", "all layers", "given", 1.0),
            (f"{name}, all layers / padded forward sorted by length", "all layers", "sorted", 1.0),
            (f"{name}, all layers / forward of one trace at a time", "all layers", "single", 1.05),
            (f"{name}, equal lengths / forward", "equal", "equal forward", 1.05),
            (f"{name}, layer {third(lm)} alone / forward of one trace at a time", "one layer", "single", 0.45),
        ],
        rounds,
    )


def memory(sizes: tuple[int, int] = (64, 1024)) -> list[Result]:
    """Memory that an extraction adds, raw windows included, each size in a process of its own."""
    added = []
    for traces in sizes:
        command = [sys.executable, __file__, "--added", str(traces)]
        added.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        print(f"    memory of an extraction of {traces} traces: {added[-1]:.0f} MB", flush=True)
    ratio = added[1] / added[0]
    name = f"pocket:base: memory of an extraction, {sizes[1]} / {sizes[0]} traces"
    return [Result(name, ratio, ratio, ratio, 1.2, ratio <= 1.2)]


def added_memory(traces: int) -> float:
    """MB by which the process's peak rises while it extracts."""
    import resource

    torch.set_num_threads(1)
    lm = load_model("pocket:base")
    work = workload(lm, traces)
    before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    with tempfile.TemporaryDirectory() as folder:
        extract(lm, work.items, work.extractor, work.labels, needs={"means", "raw"}, raw_folder=Path(folder))
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / 1e6


def run(rounds: int, only: str | None = None, traces: int = 64) -> list[Result]:
    """Measure and print."""
    settle()
    found: list[Result] = []
    if only in (None, "pocket"):
        found += costs(load_model("pocket:base"), traces, rounds)
    if only in (None, "smollm2-shaped"):
        found += costs(smollm2_shaped(), traces, rounds)
    if only in (None, "memory"):
        found += memory()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="at least 5")
    parser.add_argument("--traces", type=int, default=64)
    parser.add_argument("--only", choices=("pocket", "smollm2-shaped", "memory"))
    parser.add_argument("--added", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.added:
        print(added_memory(args.added))
        return
    results = run(args.rounds, args.only, args.traces)
    show(results)
    write(results, keep=True)


if __name__ == "__main__":
    main()
