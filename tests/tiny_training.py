"""Rows, plugins and trainings for the tests of `steerkit.training`; and plain loops to hold them against."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import torch
from steerkit_plugins.adapters.full import Full
from steerkit_plugins.adapters.lora import Lora
from steerkit_plugins.objectives.response import Response
from steerkit_plugins.steerers.residual_add import ResidualAdd
from torch import Tensor

from steerkit.data.chat_format import ChatFormat
from steerkit.interventions.edits import Edit
from steerkit.models.language_model import LanguageModel
from steerkit.training.rows import TrainingRow
from steerkit.training.train import Trained, train

ADD = ResidualAdd()
TURNS = (
    "{% for m in messages %}{{ '<|' + m.role + '|> ' + m.content + ' </s> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|> ' }}{% endif %}"
)
"""A chat template for the word-level tokenizer: roles are unknown words, turns end in its end token."""

ARGUMENTS: dict[str, Any] = {
    "learning_rate": 1e-2,
    "per_device_train_batch_size": 2,
    "num_train_epochs": 2.0,
    "weight_decay": 0.01,
    "warmup_steps": 1,
    "save_strategy": "no",
}


def rows(count: int = 8) -> list[TrainingRow]:
    """Prompts of 3 to 6 words, responses of 2 to 6."""
    return [
        TrainingRow(
            f"r{n}",
            " ".join(f"w{(7 * n + j) % 50}" for j in range(3 + n % 4)),
            " " + " ".join(f"w{(3 * n + 11 * j) % 50}" for j in range(2 + n % 5)),
        )
        for n in range(count)
    ]


def chats(lm: LanguageModel, *, templated: bool = False) -> ChatFormat:
    import copy

    tokenizer = copy.deepcopy(lm.tokenizer)
    tokenizer.chat_template = TURNS if templated else None
    return ChatFormat(tokenizer)


def unit(width: int = 16, seed: int = 3) -> Tensor:
    v = torch.randn(width, generator=torch.Generator().manual_seed(seed))
    return v / v.norm()


def push(layer: int = 1, norm: float = 4.0, tokens: Any = "all") -> tuple[Edit, ...]:
    return (Edit(ADD, layer, norm, unit(), tokens),)


def run(lm: LanguageModel, folder: Path, **options: Any) -> Trained:
    """A training of the rows above: full fine-tuning for two epochs of four steps, if nothing else is asked."""
    given = {
        "rows": rows(),
        "chats": chats(lm),
        "adapter": Full(),
        "objective": Response(),
        "seed": 5,
        **options,
        "arguments": {**ARGUMENTS, **options.get("arguments", {})},
    }
    gc.freeze()  # a training begins with a collection: libraries that came since conftest's freeze are left out, too
    return train(lm, given.pop("rows"), folder=folder, **given)


def lora(**options: Any) -> Lora:
    return Lora(**{"r": 4, "lora_alpha": 8, **options})


def weights(lm: LanguageModel) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in lm.model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def hooks(lm: LanguageModel) -> list[tuple[str, object]]:
    """A module's name with each of its hooks and a forward of its own; a shared model may have some of others'."""
    return [
        (name, own)
        for name, module in lm.model.named_modules()
        for own in (
            *module._forward_hooks.values(),
            *module._forward_pre_hooks.values(),
            *module._backward_hooks.values(),
            *(value for key, value in vars(module).items() if key == "forward"),
        )
    ]
