"""The model's own weights, all or some of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from steerkit.errors import SteerkitError, nearest
from steerkit.interfaces import Config
from steerkit.models.language_model import LanguageModel
from steerkit.training.contract import Adapter

if TYPE_CHECKING:
    from torch import Tensor


class FullOptions(Config):
    parts: str = ""
    r"""Regular expression, found anywhere in the names of the weights that are trained (`\.mlp\.`); all of them when
    empty."""


class Full(Adapter):
    r"""Full fine-tuning, in the number format of the weights. A copy of what is trained is kept for `detach`, in the
    computer's memory."""

    Config = FullOptions
    whole = True

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        try:
            self._parts = re.compile(self.config.parts)
        except re.error as error:
            raise SteerkitError(f"full: parts: {self.config.parts!r} is no regular expression: {error}") from error
        self._before: WeakKeyDictionary[Any, list[tuple[Any, bool, Tensor | None]]] = WeakKeyDictionary()

    def attach(self, lm: LanguageModel, *, seed: int, start: Path | None = None) -> LanguageModel:
        if lm.quantized:
            raise SteerkitError(f"{lm.name}: its weights are packed ({lm.quantized}) and can't be trained; use lora")
        named = dict(lm.model.named_parameters())
        chosen = {name for name in named if self._parts.search(name)}
        if not chosen:
            raise SteerkitError(
                f"full: no weight of {lm.name} has {self.config.parts!r} in its name; {_near(self, named)}"
            )
        self._before[lm.model] = [
            (weight, weight.requires_grad, weight.detach().to("cpu", copy=True) if name in chosen else None)
            for name, weight in named.items()
        ]
        for name, weight in named.items():
            weight.requires_grad_(name in chosen)
        if start is not None:
            _read(start, lm, {name: named[name] for name in chosen})
        return lm

    def detach(self, lm: LanguageModel) -> None:
        import torch

        with torch.no_grad():
            for weight, learns, before in self._before.pop(lm.model, []):
                if before is not None:
                    weight.copy_(before)
                weight.requires_grad_(learns)

    def save(self, lm: LanguageModel, folder: Path) -> None:
        lm.model.save_pretrained(str(folder))
        lm.tokenizer.save_pretrained(str(folder))


def _near(adapter: Full, named: Any) -> str:
    return nearest(adapter.config.parts, sorted({re.sub(r"\.\d+\.", ".0.", name) for name in named}))


def _read(start: Path, lm: LanguageModel, named: dict[str, Tensor]) -> None:
    """Weights of an earlier save, into the model.

    Raises:
        SteerkitError: nothing of the kind is there.
    """
    import torch

    from steerkit.models.loading import load_model

    found = dict(load_model(str(start), device="cpu").model.named_parameters())
    missing = [name for name, weight in named.items() if name not in found or found[name].shape != weight.shape]
    if missing:
        raise SteerkitError(f"{start}: is a model of another architecture than {lm.name}: {missing[0]} doesn't fit")
    with torch.no_grad():
        for name, weight in named.items():
            weight.copy_(found[name])
