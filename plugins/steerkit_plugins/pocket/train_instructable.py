"""Fine-tune pocket:reasoning so that it follows the line a question opens with, on a CPU, with one command.

    python -m steerkit_plugins.pocket.train_instructable --seed 1 --out instructable

All weights are trained, with the loss on the answers of `instructions.lesson` alone.
"""

from __future__ import annotations

from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser
from pathlib import Path
from random import Random

import torch
from rich.console import Console
from transformers import LlamaForCausalLM

from steerkit_plugins.pocket import checks
from steerkit_plugins.pocket.instructions import lesson
from steerkit_plugins.pocket.loop import BATCH, batches, fit, save, versions
from steerkit_plugins.pocket.source import PocketModels
from steerkit_plugins.pocket.tokenizer import DIRECT_TEMPLATE, build

RATE = 1e-3


def main() -> None:
    """Train, check and save the model."""
    parser = ArgumentParser(description=__doc__, formatter_class=ArgumentDefaultsHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument("--steps", type=int, default=110, help="steps of the fine-tuning")
    parser.add_argument("--tried", type=int, default=60, help="problems that the model is tried on after each line")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    console = Console()
    tokenizer = build(DIRECT_TEMPLATE)
    model = LlamaForCausalLM.from_pretrained(PocketModels().path("reasoning"), dtype=torch.float32)
    adamw = torch.optim.AdamW(model.parameters(), lr=RATE)
    stream = batches(tokenizer, lesson, Random(f"instructable-{args.seed}"))
    loss = fit(model, stream, args.steps, [adamw], "instructable", console)
    found = {"loss": loss, "follows": checks.follows(model, tokenizer, args.tried)}
    console.print("instructable", found)
    record = {"model": "instructable", "seed": args.seed, "steps": args.steps, "batch": BATCH, "rate": RATE}
    save(model, args.out, {**record, **versions(), **found}, DIRECT_TEMPLATE)


if __name__ == "__main__":
    main()
