"""What reading a LoRA's scalars costs beside the decoder's own forward of the same batches.

    python benchmarks/scalars.py [--rounds 9] [--size quick] [--threads 1]

Rank 1 on the seven projections of every block, with random weights. The plain forward has the adapter on, too, has no
LM head and keeps nothing. Merged weights run no A, so that every input is multiplied with A once more.
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
from steerkit.data.trace import Item
from steerkit.extraction.batching import BATCH_TOKENS, batches, comfortable_tokens
from steerkit.models.language_model import LanguageModel
from steerkit.models.lora_units import PROJECTIONS, lora_groups
from steerkit.models.units import UnitGroup
from steerkit.units.contexts import TopContexts
from steerkit.units.reading import read_units

TRACES = {"full": (12, 500), "quick": (12, 500), "smallest": (3, 40)}  # and their mean length


def with_lora(lm: LanguageModel) -> LanguageModel:
    """The model with rank 1 on all projections, B not zero."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=1, lora_alpha=16, target_modules=[f"{part}_proj" for part in PROJECTIONS])
    model: Any = get_peft_model(lm.model, config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.01)
    return LanguageModel(f"{lm.name} with rank 1", model, lm.tokenizer, adapter=True)


def reading(
    lm: LanguageModel, items: Sequence[Item], groups: Sequence[UnitGroup], *, contexts: bool = False
) -> Callable[[], None]:
    """Scalars by steerkit; with the top contexts of each, too."""

    def run() -> None:
        found, top = [], TopContexts(50, 30, 4, 0.01)

        def take(item: Item, numbers: Any) -> None:
            found.append(numbers)
            if contexts:
                top.add(item.trace.id, numbers.numpy())

        read_units(lm, items, groups, take)

    return run


def plain(lm: LanguageModel, items: Sequence[Item]) -> Callable[[], None]:
    """The decoder on steerkit's own batches, by transformers and PEFT alone."""
    parts = []
    for batch in batches(items, comfortable_tokens(lm, BATCH_TOKENS)):
        ids = torch.zeros(len(batch), max(len(item.ids) for item in batch), dtype=torch.long)
        for row, item in enumerate(batch):
            ids[row, : len(item.ids)] = torch.tensor(item.ids)
        parts.append(ids.to(lm.device))

    @torch.inference_mode()
    def run() -> None:
        for ids in parts:
            lm.decoder(input_ids=ids, use_cache=False)

    return run


def run(rounds: int, size: str = "full", threads: int = 1) -> list[Result]:
    """Measure everything."""
    settle(threads or 1)
    count, length = TRACES[size]
    lm, merged = with_lora(smollm2_shaped(size)), with_lora(smollm2_shaped(size))
    merged.model.merge_adapter()
    items = random_traces(lm.config.vocab_size, count, length)
    print(f"{lm.name}: {sum(len(item.ids) for item in items)} tokens; {machine()}", flush=True)
    works = {
        "scalars": reading(lm, items, lora_groups(lm)),
        "contexts": reading(lm, items, lora_groups(lm), contexts=True),
        "plain": plain(lm, items),
        "merged": reading(merged, items, lora_groups(merged)),
        "merged plain": plain(merged, items),
    }
    name, note = f"{lm.name}: scalars", f"{count} traces of {length} tokens in the mean"
    return compare(
        works,
        [
            Question(f"{name} / decoder forward", "scalars", "plain", 1.05, note=note),
            Question(f"{name} and top contexts / decoder forward", "contexts", "plain", 1.1, note=note),
            Question(f"{name}, merged / decoder forward, merged", "merged", "merged plain", 1.1, note=note),
        ],
        rounds,
    )


def main() -> None:
    args = parser_of(__doc__, rounds=9).parse_args()
    results = run(args.rounds, args.size, args.threads)
    print(text_table(results))
    write(results, args.out, keep=True)


if __name__ == "__main__":
    main()
