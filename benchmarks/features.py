"""What collecting a transcoder's features costs beside the decoder's own forward of the same batches.

    python benchmarks/features.py [--rounds 9] [--size quick] [--threads 1]

Transcoders of random weights beside every MLP, twice and four times as wide as the stream; encoder biases are set so
that a few features are active at a token. The plain forward has the adapter on, too, has no LM head and keeps nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from models import smollm2_shaped
from options import parser_of
from scalars import plain
from steerkit_plugins.transcoder.adapter import TranscoderAdapter
from steerkit_plugins.transcoder.units import TranscoderGroup, transcoder_groups

from steerkit.bench.measure import Question, Result, compare, machine, settle, write
from steerkit.bench.table import text_table
from steerkit.bench.traces import random_traces
from steerkit.data.trace import Item
from steerkit.models.language_model import LanguageModel
from steerkit.units.collected import CollectedUnits
from steerkit.units.collecting import collect, layout_of
from steerkit.units.regions import REGIONS

TRACES = {"full": (12, 500), "quick": (12, 500), "smallest": (3, 40)}  # and their mean length
RATIOS = (2, 4)
ACTIVE = 5
"""Features active at a token, in each block."""


def with_transcoders(lm: LanguageModel, ratio: int, items: Sequence[Item]) -> LanguageModel:
    """The model with transcoders beside its MLPs, of which about `ACTIVE` features a block are active at a token."""
    made = TranscoderAdapter(features=ratio * lm.width).attach(lm, seed=0)
    made.model.eval()
    groups = transcoder_groups(made)
    with torch.no_grad():
        for group in groups:
            group.transcoder.decoder.weight.normal_(std=0.01)
        for group in groups:  # what a block does depends on those before it
            seen: list[torch.Tensor] = []
            handle = group.transcoder.encoder.register_forward_hook(lambda m, a, out, seen=seen: seen.append(out[0]))
            for item in items:
                made.decoder(input_ids=torch.tensor([item.ids]), use_cache=False)
            handle.remove()
            rows = torch.cat(seen)
            most = max(1, len(rows) * ACTIVE // group.count)
            group.transcoder.encoder.bias.sub_(rows.topk(most + 1, dim=0).values[-1])
    return made


def collecting(
    lm: LanguageModel, items: Sequence[Item], groups: Sequence[TranscoderGroup], found: list[CollectedUnits]
) -> Callable[[], None]:
    """Sums, contexts and samples by steerkit."""
    regions = {item.trace.id: np.arange(len(item.ids)) * len(REGIONS) // len(item.ids) for item in items}
    counts = {item.trace.id: np.ones(len(item.ids), bool) for item in items}

    def run() -> None:
        found[:] = [collect(lm, items, groups, layout_of(groups, REGIONS), regions, counts)]

    return run


def run(rounds: int, size: str = "full", threads: int = 1) -> list[Result]:
    """Measure everything."""
    settle(threads or 1)
    count, length = TRACES[size]
    results = []
    for ratio in RATIOS:
        lm = smollm2_shaped(size)
        items = random_traces(lm.config.vocab_size, count, length)
        lm = with_transcoders(lm, ratio, items)
        groups, found = transcoder_groups(lm), list[CollectedUnits]()
        works: dict[str, Any] = {
            "features": collecting(lm, items, groups, found),
            "plain": plain(lm, items),
        }
        works["features"]()
        active = found[0].active.sum() / found[0].tokens / len(groups)
        print(f"{lm.name}, {ratio} D: {found[0].tokens} tokens, L0 {active:.1f}; {machine()}", flush=True)
        note = f"{count} traces of {length} tokens in the mean; {groups[0].count} features a block, L0 {active:.1f}"
        name = f"{lm.name}, transcoder {ratio} D"
        results += compare(
            works,
            [
                Question(f"{name}: features / decoder forward", "features", "plain", 1.1, note=note),
            ],
            rounds,
        )
    return results


def main() -> None:
    args = parser_of(__doc__, rounds=9).parse_args()
    results = run(args.rounds, args.size, args.threads)
    print(text_table(results))
    write(results, args.out, keep=True)


if __name__ == "__main__":
    main()
