"""Sampling whose noise is a function of the row's key and step: texts don't depend on their neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from steerkit.noise import gumbel

if TYPE_CHECKING:
    from torch import Tensor

STREAM = 0x67656E  # separates sampling noise from steerers' noise


class Sampler:
    """logits / T + Gumbel noise of (row key, step): its argmax is a sample of softmax(logits / T)."""

    def __init__(self, temperature: float, device: Any) -> None:
        self.temperature, self.device = temperature, device

    def assign(self, keys: Sequence[int], born: Sequence[int]) -> None:
        """The lines' rows: their keys, and the batch's step at which each one's first token is drawn."""
        import torch

        # Rows of one prompt and seed share their noise: it is drawn once for all conditions.
        places: dict[tuple[int, int], int] = {}
        inverse = [places.setdefault(pair, len(places)) for pair in zip(keys, born, strict=True)]
        self.unique = torch.tensor([key for key, _ in places], device=self.device)
        self.born = torch.tensor([first for _, first in places], device=self.device)
        self.inverse = None if len(places) == len(inverse) else torch.tensor(inverse, device=self.device)

    def scores(self, logits: Tensor, step: int) -> Tensor:
        """[B, V] float32 whose argmax is the token that each line draws at the batch's step."""
        logits = logits.float()
        if self.temperature == 0:
            return logits
        noise = gumbel(self.unique, step - self.born, stream=STREAM, size=logits.shape[-1])
        if self.inverse is not None:
            noise = noise[self.inverse]
        return noise.add_(logits, alpha=1 / self.temperature)


def leads(scores: Tensor) -> list[float]:
    """By how much each line's best token leads its second."""
    top = scores.topk(2, -1).values
    return (top[:, 0] - top[:, 1]).tolist()
