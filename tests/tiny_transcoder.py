"""Tiny models with a transcoder adapter that has random weights."""

from __future__ import annotations

from typing import Any

import torch
from steerkit_plugins.transcoder.adapter import TranscoderAdapter
from torch import Tensor
from zoo import breed

from steerkit.models.language_model import LanguageModel


def adapter(**options: Any) -> TranscoderAdapter:
    return TranscoderAdapter(**{"features": 6, **options})


def shaken(lm: LanguageModel, seed: int = 0, size: float = 0.3) -> LanguageModel:
    """The model with random weights in its transcoders."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in lm.model.named_parameters():
            if "transcoder_parts" in name:
                weight.copy_(size * torch.randn(weight.shape, generator=generator))
    return lm


def with_transcoder(architecture: str, seed: int = 0, **options: Any) -> LanguageModel:
    """A model of its own with a transcoder of random weights beside each MLP."""
    attached = adapter(**options).attach(breed(architecture, seed), seed=seed)
    attached.model.eval()
    return shaken(attached, seed)


def logits(lm: LanguageModel, ids: Any = ((5, 9, 12, 33, 7, 20),)) -> Tensor:
    with torch.no_grad():
        found: Tensor = lm.model(torch.tensor(ids), use_cache=False).logits
    return found
