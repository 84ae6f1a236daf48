"""Baseline: one random direction of the vector's length, the same everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steerkit.interfaces import Config, EditContext, Steerer
from steerkit.stats.noise import key_of, normal

if TYPE_CHECKING:
    from torch import Tensor


class RandomDirectionConfig(Config):
    seed: int = 0
    """Which direction: a function of this and the layer alone."""


class RandomDirection(Steerer):
    """h + norm · r/‖r‖, r standard normal, drawn once for a layer: the same at every token, prompt and strength."""

    Config = RandomDirectionConfig
    direction = "none"

    def edit(self, hidden: Tensor, at: EditContext) -> Tensor:
        key = at.position.new_tensor(key_of(self.config.seed, "random-direction"))
        drawn = normal(key, at.position.new_tensor(0), stream=at.layer, size=hidden.shape[-1])
        return hidden + at.norm * (drawn / drawn.norm()).to(hidden.dtype)
