"""Baseline: noise of the vector's length."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steerkit.interfaces import Config, EditContext, Steerer
from steerkit.stats.noise import normal

if TYPE_CHECKING:
    from torch import Tensor


class GaussianNoiseConfig(Config):
    normalize: bool = True
    """Every position gets exactly the norm; else g/√H, which has it in the mean of squares only."""


class GaussianNoise(Steerer):
    """h + norm · g/‖g‖ with g standard normal, a function of (seed, prompt, layer, position) alone.

    So g is the same at every strength, in every batch, with or without a KV cache.
    """

    Config = GaussianNoiseConfig
    direction = "none"

    def edit(self, hidden: Tensor, at: EditContext) -> Tensor:
        noise = normal(at.key[:, None], at.position, stream=at.layer, size=hidden.shape[-1])
        length = noise.norm(dim=-1, keepdim=True) if self.config.normalize else noise.shape[-1] ** 0.5
        return hidden + at.norm * (noise / length).to(hidden.dtype)
