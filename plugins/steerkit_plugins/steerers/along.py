"""What of activations or gradients lies along the vector."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steerkit.interfaces import EditContext

if TYPE_CHECKING:
    from torch import Tensor


def along(x: Tensor, at: EditContext) -> tuple[Tensor, Tensor, Tensor]:
    """x [R, T, D], c = x · v̂ [R, T, 1] and v̂ [R, 1, D], in float32 at least.

    Half precision rounds a unit vector to a length up to 0.4 % off: v̂ is made one again, so that c v̂ is all that lies
    along it.
    """
    import torch

    wide, direction = (value.float() if value.itemsize < 4 else value for value in (x, at.direction))
    unit = torch.nn.functional.normalize(direction, dim=-1)
    return wide, (wide * unit).sum(-1, keepdim=True), unit
