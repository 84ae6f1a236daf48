"""Baseline: noise of the vector's length."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steerkit.interfaces import EditContext, Steerer
from steerkit.noise import normal

if TYPE_CHECKING:
    from torch import Tensor


class GaussianNoise(Steerer):
    """h + norm · g/‖g‖ with g standard normal, a function of (seed, prompt, layer, position) alone.

    So g is the same at every strength, in every batch, with or without a KV cache.
    """

    direction = "none"

    def edit(self, hidden: Tensor, at: EditContext) -> Tensor:
        noise = normal(at.key[:, None], at.position, stream=at.layer, size=hidden.shape[-1])
        return hidden + at.norm * (noise / noise.norm(dim=-1, keepdim=True)).to(hidden.dtype)
