"""What all single ablations of a LoRA's units cost, against one whole forward each.

    python benchmarks/ablations.py [--rounds 7] [--size quick] [--threads 1]

Each unit of each block is zeroed by itself, on the same texts. Plain: a whole forward of transformers a batch of texts
and unit, and the same KL divergence of it. Blocks below the ablated one are shared: with L blocks the blocks' own work
shrinks by 2 L / (L + 1) at most, and by less where the LM head is large; that the head runs at counted positions alone
(half of them here), and that short rows of several units share a forward, comes on top.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from models import smollm2_shaped
from options import parser_of

from steerkit import registry
from steerkit.bench.measure import Question, Result, compare, machine, settle, write
from steerkit.bench.table import text_table
from steerkit.bench.traces import random_traces
from steerkit.extraction.batching import BATCH_TOKENS, batches, comfortable_tokens
from steerkit.models.language_model import LanguageModel
from steerkit.models.lora_units import LoraGroup, lora_groups
from steerkit.models.units import Unit, units_in
from steerkit.units.ablated_batch import TextBatch
from steerkit.units.ablating import ablate
from steerkit.units.divergence import CountedText, log_probabilities, position_sums
from steerkit.units.zeroing import zeroing

TEXTS = {"full": (1, 96), "quick": (2, 96), "smallest": (2, 24)}  # and their length
PARTS = ("q", "down")  # of the seven: the ratio needs no more


def adapted(size: str) -> LanguageModel:
    """The model with rank 1 on all projections."""
    lm: LanguageModel = registry.get("adapters", "rank1-lora")().attach(smollm2_shaped(size), seed=0)
    for name, weight in lm.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)
    lm.model.requires_grad_(False).eval()
    return lm


def texts_of(lm: LanguageModel, size: str) -> list[CountedText]:
    """Random ids; the second half of a text counts."""
    count, length = TEXTS[size]
    items = random_traces(lm.config.vocab_size, count, length, equal=True)
    return [
        CountedText(item.trace.id, item.ids, [n >= len(item.ids) // 2 for n in range(len(item.ids))]) for item in items
    ]


def shared(
    lm: LanguageModel, groups: Sequence[LoraGroup], texts: Sequence[CountedText], sets: Sequence[frozenset[Unit]]
) -> Callable[[], None]:
    """Ablations by steerkit."""

    def run() -> None:
        ablate(lm, groups, texts, sets)

    return run


def whole(
    lm: LanguageModel, groups: Sequence[LoraGroup], texts: Sequence[CountedText], sets: Sequence[frozenset[Unit]]
) -> Callable[[], None]:
    """A whole forward a batch of texts and set, in steerkit's own batches."""
    plan = batches(list(texts), comfortable_tokens(lm, BATCH_TOKENS))

    def run() -> None:
        with torch.inference_mode(), zeroing(groups) as zeroed:
            for batch in plan:
                own = TextBatch(lm, batch)
                at = torch.cat([own.places[None] + row * own.ids.shape[1] for row in range(own.rows)]).flatten()
                at = at[own.at]
                of = torch.arange(len(at))
                logits = lm.model(input_ids=own.ids, use_cache=False).logits.flatten(0, 1)
                reference = log_probabilities(logits[at])
                for units in sets:
                    zeroed.assign([units], own.rows)
                    logits = lm.model(input_ids=own.ids, use_cache=False).logits.flatten(0, 1)
                    position_sums(logits, at, reference, of, own.targets, "full || ablated")
                zeroed.assign(())

    return run


def run(rounds: int, size: str = "full", threads: int = 1) -> list[Result]:
    """Measure everything."""
    settle(threads or 1)
    lm = adapted(size)
    groups, texts = lora_groups(lm), texts_of(lm, size)
    sets = [frozenset({unit}) for unit in units_in(groups) if unit.part in PARTS]
    print(f"{lm.name}: {len(sets)} sets, {sum(len(text.ids) for text in texts)} tokens; {machine()}", flush=True)
    works = {"shared": shared(lm, groups, texts, sets), "whole": whole(lm, groups, texts, sets)}
    count, length = TEXTS[size]
    limit = 2 * lm.depth / (lm.depth + 1)
    question = Question(
        f"{lm.name}: a whole forward for each single adapter / ablations that share blocks",
        "shared",
        "whole",
        1.5,
        least=True,
        note=f"{len(sets)} sets on {count} texts of {length} tokens, half of them counted; sharing blocks alone gives "
        f"{limit:.2f} of the blocks' work at most",
    )
    return compare(works, [question], rounds)


def main() -> None:
    args = parser_of(__doc__, rounds=7).parse_args()
    results = run(args.rounds, args.size, args.threads)
    print(text_table(results))
    write(results, args.out, keep=True)


if __name__ == "__main__":
    main()
