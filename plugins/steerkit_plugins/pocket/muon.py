"""Muon: momentum steps made orthogonal, for the matrices inside the blocks.

torch.optim.Muon does the orthogonalisation in bfloat16, which CPUs without bfloat16 units run many
times slower than float32; this one stays in the parameters' own type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic Newton-Schulz iteration that drives all singular values towards one."""


def orthogonal(matrix: torch.Tensor, iterations: int = 5) -> torch.Tensor:
    """A matrix [m, n] with the singular vectors of the given one and singular values near one."""
    a, b, c = COEFFICIENTS
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.T
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x if wide else x.T


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, scaled so that tall matrices move as far as wide ones."""

    def __init__(self, params: Iterable[torch.nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Move every matrix that has a gradient."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                velocity = self.state[p].setdefault("velocity", torch.zeros_like(p))
                velocity.lerp_(p.grad, 1 - group["momentum"])
                update = orthogonal(p.grad.lerp(velocity, group["momentum"]))
                p.sub_(update, alpha=group["lr"] * max(1, p.shape[0] / p.shape[1]) ** 0.5)
        return loss
