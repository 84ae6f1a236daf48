"""What extraction and steering cost on top of the forward passes that they need anyway.

    python benchmarks/costs.py [--rounds 7] [--only pocket|smollm2-shaped]

Three questions, on the embedded model and on a random Llama of SmolLM2-135M's shape:

- extraction of all layers × 46 offsets × all labels, against a plain forward of the decoder over the same
  batches (no LM head, same right padding, no attention mask, no cache): at most 1.10 ×;
- extraction of the layer at a third of the depth alone, against the same forward: at most 0.45 × (the last block
  of that third: layer 1 of 6; of 32 blocks it is the paper's layer 10);
- a batch whose rows are steered by different steerers at different strengths, against an unsteered
  `model.generate` of the same size (same prompts, as many new tokens, no end of sequence, sampling with
  temperature), and against steerkit's own unsteered loop: at most 1.05 ×.
"""

from __future__ import annotations

import argparse
import random
from dataclasses import replace
from typing import Any

import torch
from measure import Result, compare, settle, show, write

from steerkit import registry
from steerkit.batching import batches
from steerkit.extraction import Item, extract
from steerkit.generation import GenerationRow, generate
from steerkit.model import LanguageModel, load_model
from steerkit.noise import key_of
from steerkit.steering import Edit
from steerkit.trace import Span, Trace

LABELS = ("initializing", "deduction", "adding-knowledge", "example-testing", "uncertainty-estimation", "backtracking")
EXTRACTOR = {"windows": [(-13, -8)], "sweep": (-40, 5)}
STEERERS = ("residual-add", "overall-mean", "gaussian-noise", "self-amplify")
TEMPERATURE = 0.8


def smollm2_shaped() -> LanguageModel:
    """A random Llama with SmolLM2-135M's shape, 6 of its 30 blocks: ratios of costs by block don't need all of them."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=6, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=8192, tie_word_embeddings=True, rms_norm_eps=1e-5,
    )  # fmt: skip
    # Only ids go in and come out: any tokenizer does.
    return LanguageModel("smollm2-shaped", LlamaForCausalLM(config).eval(), load_model("pocket:base").tokenizer)


def third(lm: LanguageModel) -> int:
    """The 0-based block after which a third of the depth has run."""
    return max(round(lm.depth / 3) - 1, 0)


def synthetic_items(lm: LanguageModel, traces: int, length: int, seed: int = 0) -> list[Item]:
    """Traces of random ids, about a tenth of them prompt, with a labelled span every 25 tokens or so.

    That is the density of the 300 real traces of R1-Distill-Llama-8B (20 spans in 500 tokens).
    """
    rng = random.Random(seed)
    vocabulary = lm.config.vocab_size
    items = []
    for number in range(traces):
        own = length - rng.randrange(length // 5)
        ids = tuple(rng.randrange(4, vocabulary) for _ in range(own))
        prompt = own // 10
        trace = Trace(
            id=f"t{number}", prompt_id=f"t{number}", prompt="", text="x" * (own - prompt), prompt_ids=ids[:prompt],
            ids=ids[prompt:], starts=tuple(range(own - prompt)),
        )  # fmt: skip
        spans, first = [], prompt
        while first < own:
            last = min(first + rng.randrange(8, 42), own - 1)
            label = rng.choices(LABELS, (6, 40, 25, 10, 12, 7))[0]
            place = (first - prompt, last + 1 - prompt)
            spans.append(Span(trace_id=trace.id, label=label, judge="", start=place[0], end=place[1],
                              first=first, last=last))  # fmt: skip
            first = last + 1
        items.append(Item(trace, spans, ids))
    return items


def extraction_costs(lm: LanguageModel, traces: int, length: int, batch_tokens: int, rounds: int) -> list[Result]:
    """Ratios of an extraction to a plain forward of the decoder."""
    items = synthetic_items(lm, traces, length)
    extractor = registry.get("extractors", "offset-window")(**EXTRACTOR)
    padded = []
    for batch in batches(items, batch_tokens):
        ids = torch.zeros(len(batch), max(len(item.ids) for item in batch), dtype=torch.long)
        for row, item in enumerate(batch):
            ids[row, : len(item.ids)] = torch.tensor(item.ids)
        padded.append(ids)
    spans = sum(len(item.spans) for item in items)
    print(f"  extraction: {traces} traces, {sum(len(i.ids) for i in items)} tokens, {spans} spans, "
          f"{len(padded)} batches", flush=True)  # fmt: skip

    def forward() -> None:
        with torch.inference_mode():
            for ids in padded:
                lm.decoder(input_ids=ids, use_cache=False)

    def every_layer() -> None:
        extract(lm, items, extractor, LABELS, batch_tokens=batch_tokens)

    def one_layer() -> None:
        extract(lm, items, extractor, LABELS, layers=[third(lm)], batch_tokens=batch_tokens)

    return compare(
        {"forward": forward, "all layers": every_layer, "one layer": one_layer},
        [
            (f"{lm.name}: extraction, all layers / forward", "all layers", "forward", 1.10),
            (f"{lm.name}: extraction, layer {third(lm)} alone / forward", "one layer", "forward", 0.45),
        ],
        rounds,
    )


def steered_rows(lm: LanguageModel, rows: int, prompt: int) -> list[GenerationRow]:
    """Four rows a prompt, each with its own steerer, and five strengths; all at one layer."""
    generator = torch.Generator().manual_seed(1)
    layer = third(lm)
    direction = torch.nn.functional.normalize(torch.randn(lm.width, generator=generator), dim=0)
    steerers = [registry.get("steerers", name)() for name in STEERERS]
    prompts = torch.randint(4, lm.config.vocab_size, (rows // len(STEERERS) + 1, prompt), generator=generator).tolist()
    found = []
    for row in range(rows):
        steerer = steerers[row % len(STEERERS)]
        own = None if steerer.direction == "none" else direction
        which = row // len(STEERERS)
        edit = Edit(steerer, layer, float(1 + row % 5), own, key=key_of("noise", which))
        found.append(GenerationRow(prompts[which], key_of("sample", which), edit))
    return found


def one_kind(rows: list[GenerationRow]) -> list[GenerationRow]:
    """The same rows, all with the first one's steerer (strengths stay)."""
    first = rows[0].edit
    assert first is not None
    return [replace(r, edit=replace(r.edit, steerer=first.steerer, direction=first.direction)) for r in rows if r.edit]


def steering_costs(lm: LanguageModel, rows: int, prompt: int, new: int, rounds: int) -> list[Result]:
    """Ratios of a steered batch to unsteered generation."""
    from transformers import GenerationConfig

    steered = steered_rows(lm, rows, prompt)
    plain = [replace(row, edit=None) for row in steered]
    ids = torch.tensor([row.prompt_ids for row in steered])
    config = GenerationConfig(
        max_new_tokens=new, do_sample=True, temperature=TEMPERATURE, top_k=0, pad_token_id=0, eos_token_id=None
    )
    own: dict[str, Any] = {"max_new_tokens": new, "temperature": TEMPERATURE}
    print(f"  generation: {rows} rows, {prompt} prompt tokens, {new} new tokens, four steerers at once", flush=True)

    def by_transformers() -> None:
        lm.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)

    def by_steerkit() -> None:
        generate(lm, plain, **own)

    def packed() -> None:
        generate(lm, steered, **own)

    def packed_one_kind() -> None:
        generate(lm, one_kind(steered), **own)

    return compare(
        {"model.generate": by_transformers, "unsteered": by_steerkit, "four": packed, "one": packed_one_kind},
        [
            (f"{lm.name}: steered, four steerers / model.generate", "four", "model.generate", 1.05),
            (f"{lm.name}: steered, four steerers / unsteered", "four", "unsteered", 1.05),
            (f"{lm.name}: steered, residual-add / unsteered", "one", "unsteered", 1.05),
        ],
        rounds,
    )


def without_end(lm: LanguageModel) -> LanguageModel:
    """The model with no end-of-sequence token: every row gets all its tokens."""
    import copy

    lm.model.generation_config.eos_token_id = None
    tokenizer = copy.deepcopy(lm.tokenizer)
    tokenizer.eos_token = None
    return replace(lm, tokenizer=tokenizer)


def run(rounds: int, only: str | None = None) -> list[Result]:
    """Measure and print."""
    settle()
    found: list[Result] = []
    if only in (None, "pocket"):
        lm = without_end(load_model("pocket:base"))
        print(f"{lm.name}: {lm.depth} blocks, width {lm.width}", flush=True)
        found += extraction_costs(lm, traces=28, length=300, batch_tokens=8192, rounds=2 * rounds + 1)
        found += steering_costs(lm, rows=64, prompt=40, new=40, rounds=2 * rounds + 1)
    if only in (None, "smollm2-shaped"):
        lm = without_end(smollm2_shaped())
        print(f"{lm.name}: {lm.depth} blocks, width {lm.width}", flush=True)
        found += extraction_costs(lm, traces=24, length=300, batch_tokens=8192, rounds=rounds)
        found += steering_costs(lm, rows=16, prompt=16, new=16, rounds=2 * rounds + 1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="at least 5; short ones are done twice as often")
    parser.add_argument("--only", choices=("pocket", "smollm2-shaped"))
    args = parser.parse_args()
    results = run(args.rounds, args.only)
    show(results)
    write(results, keep=True)


if __name__ == "__main__":
    main()
