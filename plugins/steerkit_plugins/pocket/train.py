"""Train the pocket pair on a CPU, from nothing, with one command.

    python -m steerkit_plugins.pocket.train --seed 1 --out pair

writes pair/base and pair/reasoning. The base model learns the corpus as it stands; the reasoning
model is that base, fine-tuned on reasoning traces with the loss on the trace alone.
"""

from __future__ import annotations

import json
import math
import platform
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from random import Random

import torch
import transformers
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from steerkit_plugins.pocket import checks
from steerkit_plugins.pocket.corpus import Example, document, trace
from steerkit_plugins.pocket.muon import Muon
from steerkit_plugins.pocket.tokenizer import build

BATCH = 16
"""Texts in a step."""

POOL = 30
"""Batches drawn at a time and filled by length, so that little is padded."""

DROPOUT = 0.06
"""Residual dropout after each block in training, base and reasoning model alike."""

WARMUP = 0.05
"""Share of the steps in which the learning rate rises; then it falls along a cosine."""


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


def encode(tokenizer: PreTrainedTokenizerFast, example: Example) -> tuple[list[int], int]:
    """Ids of a text and how many of them are given."""
    if not example.given:
        given = tokenizer.bos_token
    else:
        question = [{"role": "user", "content": example.given}]
        given = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    head = tokenizer.encode(given, add_special_tokens=False)
    body = tokenizer.encode(example.learned + tokenizer.eos_token, add_special_tokens=False)
    return head + body, len(head)


def batches(
    tokenizer: PreTrainedTokenizerFast, draw: Callable[[Random], Example], rng: Random
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless ids and labels, both [BATCH, T] and padded on the right; -100 is not learned."""
    while True:
        drawn = [encode(tokenizer, draw(rng)) for _ in range(BATCH * POOL)]
        pool = sorted(drawn, key=lambda encoded: len(encoded[0]))
        groups = [pool[i : i + BATCH] for i in range(0, len(pool), BATCH)]
        rng.shuffle(groups)
        for group in groups:
            length = len(group[-1][0])
            ids = torch.full((BATCH, length), tokenizer.pad_token_id)
            labels = torch.full((BATCH, length), -100)
            for row, (text, given) in enumerate(group):
                ids[row, : len(text)] = torch.tensor(text)
                labels[row, given : len(text)] = torch.tensor(text[given:])
            yield ids, labels


def rate(step: int, steps: int) -> float:
    """The learning rate at a step as a share of its peak."""
    warm = max(1, round(WARMUP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.02 + 0.98 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))) / 2


@contextmanager
def residual_dropout(model: LlamaForCausalLM, share: float) -> Iterator[None]:
    """Ordinary residual dropout (GPT-2's `resid_pdrop`), which Llama's code lacks, while inside."""

    def drop(block: torch.nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.dropout(output, share)

    hooks = [block.register_forward_hook(drop) for block in model.model.layers[:-1]]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def fit(
    model: LlamaForCausalLM,
    stream: Iterator[tuple[torch.Tensor, torch.Tensor]],
    steps: int,
    peak: float,
    title: str,
    console: Console,
) -> float:
    """Train in place and return the mean loss of the last tenth of the steps.

    The matrices inside the blocks are moved by Muon at rate `peak`; embeddings, the output matrix
    and the norms by AdamW at a fifth of that.
    """
    inner = [p for p in model.model.layers.parameters() if p.ndim == 2]
    known = {id(p) for p in inner}
    outer = [p for p in model.parameters() if id(p) not in known]
    optimizers: list[torch.optim.Optimizer] = [
        Muon(inner, lr=peak),
        torch.optim.AdamW(outer, lr=peak / 5, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, lambda step: rate(step, steps)) for o in optimizers]
    losses = []
    columns = (
        TextColumn(title),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
    )
    model.train()
    with residual_dropout(model, DROPOUT), Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=steps, loss=float("nan"))
        for ids, labels in islice(stream, steps):
            loss = model(input_ids=ids, labels=labels, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer, schedule in zip(optimizers, schedules, strict=True):
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            losses.append(loss.item())
            bar.update(task, advance=1, loss=losses[-1])
    model.eval()
    tail = losses[-max(1, steps // 10) :]
    return sum(tail) / len(tail)


def save(model: LlamaForCausalLM, folder: Path, record: dict[str, object]) -> None:
    """Write weights (as bfloat16), tokenizer and the record; the model becomes the one written."""
    tokenizer = build()  # a fresh one: a tokenizer that has padded a batch would say so in its file
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    model.float()


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
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }

    stream = batches(tokenizer, document, Random(f"base-{args.seed}"))
    loss = fit(model, stream, args.steps, 0.02, "base", console)
    found = {"loss": loss, **checks.notes(model, tokenizer)}
    console.print("base", found)
    save(model, args.out / "base", {**record, "model": "base", **found})

    stream = batches(tokenizer, trace, Random(f"reasoning-{args.seed}"))
    loss = fit(model, stream, args.tuning_steps, 0.006, "reasoning", console)
    found = {"loss": loss, **checks.traces(model, tokenizer, args.tried)}
    console.print("reasoning", found)
    save(model, args.out / "reasoning", {**record, "model": "reasoning", **found})


if __name__ == "__main__":
    main()
