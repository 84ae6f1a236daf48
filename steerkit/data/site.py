"""Sites: the tensors inside a decoder block that can be read and changed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import total_ordering
from typing import Literal, get_args

from steerkit.errors import SteerkitError

Part = Literal["block", "attention", "mlp", "q", "k", "v", "o", "gate", "up", "down"]
Side = Literal["in", "out"]

ORDER: tuple[tuple[Part, Side], ...] = (
    ("block", "in"),
    ("attention", "in"),
    *((part, side) for part in ("q", "k", "v", "o") for side in get_args(Side)),
    ("attention", "out"),
    ("mlp", "in"),
    *((part, side) for part in ("gate", "up", "down") for side in get_args(Side)),
    ("mlp", "out"),
    ("block", "out"),
)
"""Inside a block, in the order of computation."""


@total_ordering
@dataclass(frozen=True, slots=True)
class Site:
    """A tensor in a decoder block; sites are ordered as they are computed.

    Attributes:
        layer: 0-based decoder block.
        part: the block, its attention or MLP module, or one of their projections: q, k, v (before any norm and
            rotation), o, gate (before the activation), up, down. The outputs of attention and mlp are what is added to
            the residual stream, before a norm or factor that a model may apply to them first.
        side: the input [B, T, D] of that part or its output; a block's output is ``hidden_states[layer + 1]``.

    Raises:
        SteerkitError: the layer is negative, or there is no such part or side.
    """

    layer: int
    part: Part = "block"
    side: Side = "out"

    def __post_init__(self) -> None:
        if (self.part, self.side) not in ORDER:
            raise SteerkitError(
                f"no site is called {self.part}.{self.side}: parts are {', '.join(get_args(Part))}; "
                "sides are in and out"
            )
        if self.layer < 0:
            raise SteerkitError(f"layer: {self.layer}: blocks are numbered from 0")

    def __lt__(self, other: Site) -> bool:
        return self._place < other._place

    @property
    def _place(self) -> tuple[int, int]:
        return self.layer, ORDER.index((self.part, self.side))

    @property
    def is_block_output(self) -> bool:
        return self.part == "block" and self.side == "out"

    @property
    def name(self) -> str:
        """Without the layer: `mlp.out`."""
        return f"{self.part}.{self.side}"

    def __str__(self) -> str:
        return f"block {self.layer}" if self.is_block_output else f"block {self.layer} ({self.name})"
