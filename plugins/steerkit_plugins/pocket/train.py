"""Train the pocket pair on a CPU, from nothing, with one command.

    python -m steerkit_plugins.pocket.train --seed 1 --out pair

writes pair/base and pair/reasoning. The base model learns the corpus as it stands; the reasoning
model is that base, fine-tuned on reasoning traces with the loss on the trace alone.
"""

from __future__ import annotations

from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser
from pathlib import Path
from random import Random

import torch
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from steerkit_plugins.pocket import checks
from steerkit_plugins.pocket.corpus import document, trace
from steerkit_plugins.pocket.loop import BATCH, batches, fit, save, versions
from steerkit_plugins.pocket.muon import Muon
from steerkit_plugins.pocket.tokenizer import build


def new_model(tokenizer: PreTrainedTokenizerFast, width: int, blocks: int) -> LlamaForCausalLM:
    """A fresh Llama with heads 32 wide and its own output matrix."""
    heads = width // 32
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=(8 * width // 3 + 31) // 32 * 32,
            num_hidden_layers=blocks,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=512,
            tie_word_embeddings=False,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def optimizers(model: LlamaForCausalLM, peak: float) -> list[torch.optim.Optimizer]:
    """Muon at rate `peak` for the matrices inside the blocks, AdamW at a fifth of it for all else.

    That is embeddings, the output matrix and the norms.
    """
    inner = [p for p in model.model.layers.parameters() if p.ndim == 2]
    known = {id(p) for p in inner}
    outer = [p for p in model.parameters() if id(p) not in known]
    return [
        Muon(inner, lr=peak),
        torch.optim.AdamW(outer, lr=peak / 5, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def main() -> None:
    """Train, check and save both models."""
    parser = ArgumentParser(description=__doc__, formatter_class=ArgumentDefaultsHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="folder for base/ and reasoning/")
    parser.add_argument("--steps", type=int, default=700, help="steps of the base model")
    parser.add_argument("--tuning-steps", type=int, default=220, help="steps of the fine-tuning")
    parser.add_argument("--width", type=int, default=128, help="of the residual stream")
    parser.add_argument("--blocks", type=int, default=4, help="decoder blocks")
    parser.add_argument("--tried", type=int, default=60, help="problems that the reasoning model is tried on")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    console = Console()
    tokenizer = build()
    model = new_model(tokenizer, args.width, args.blocks)
    record: dict[str, object] = {
        "seed": args.seed,
        "steps": args.steps,
        "tuning_steps": args.tuning_steps,
        "batch": BATCH,
        "parameters": model.num_parameters(),
        **versions(),
    }

    stream = batches(tokenizer, document, Random(f"base-{args.seed}"))
    loss = fit(model, stream, args.steps, optimizers(model, 0.02), "base", console)
    found = {"loss": loss, **checks.notes(model, tokenizer)}
    console.print("base", found)
    save(model, args.out / "base", {**record, "model": "base", **found})

    stream = batches(tokenizer, trace, Random(f"reasoning-{args.seed}"))
    loss = fit(model, stream, args.tuning_steps, optimizers(model, 0.006), "reasoning", console)
    found = {"loss": loss, **checks.traces(model, tokenizer, args.tried)}
    console.print("reasoning", found)
    save(model, args.out / "reasoning", {**record, "model": "reasoning", **found})


if __name__ == "__main__":
    main()
