"""What reading prompts leaves: keys and values by layer, or a model's own cache, and the next logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Prefix:
    """One layer's keys and values [m, heads, P, D] of m prompts, and which of them each row has."""

    keys: Tensor
    values: Tensor
    index: Tensor


@dataclass(frozen=True)
class Prefilled:
    """What n rows' prompts left.

    Attributes:
        logits: [n, V] after each row's last prompt token.
        mask: [n, P] 1 where the left-padded prompts have a token.
        layers: keys and values of every layer, where rows of unequal length share a batch.
        cache: the model's own cache of the n rows, where they don't.
    """

    logits: Tensor
    mask: Tensor
    layers: list[Prefix]
    cache: Any = None
