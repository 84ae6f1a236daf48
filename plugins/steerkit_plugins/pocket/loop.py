"""The training loop of the pocket models: texts to batches, a schedule, dropout, and what is saved."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from random import Random

import torch
import transformers
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from steerkit_plugins.pocket.corpus import Example
from steerkit_plugins.pocket.tokenizer import CHAT_TEMPLATE, build

BATCH = 16
"""Texts in a step."""

POOL = 30
"""Batches drawn at a time and filled by length, so that little is padded."""

DROPOUT = 0.06
"""Residual dropout after each block in training, the same for all models."""

WARMUP = 0.05
"""Share of the steps in which the learning rate rises; then it falls along a cosine."""


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
    optimizers: Sequence[torch.optim.Optimizer],
    title: str,
    console: Console,
) -> float:
    """Train in place at the optimizers' rates, and return the mean loss of the last tenth of the steps."""
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


def save(model: LlamaForCausalLM, folder: Path, record: dict[str, object], chat_template: str = CHAT_TEMPLATE) -> None:
    """Write weights (as bfloat16), tokenizer and the record; the model becomes the one written."""
    tokenizer = build(chat_template)  # a fresh one: a tokenizer that has padded a batch would say so in its file
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    model.float()


def versions() -> dict[str, object]:
    """What a training depends on besides its seed, for its record."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
