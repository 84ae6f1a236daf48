"""Units: numbers that a module of a model computes at every token, each with a direction that it adds to the output.

A LoRA's scalars and a transcoder's features are units. They can be read, changed, and counted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import total_ordering
from typing import TYPE_CHECKING, Any, get_args

from steerkit.data.site import ORDER, Part, Site
from steerkit.errors import SteerkitError

if TYPE_CHECKING:
    from torch import Tensor, nn


@total_ordering
@dataclass(frozen=True, slots=True)
class Unit:
    """One unit; units are ordered as they are computed.

    Attributes:
        layer: 0-based decoder block.
        part: the projection or module that it belongs to, as `Site` names it (`down`); the module's own name where
            that makes several parts (`qkv_proj`).
        index: its number there; 0 where there is only one.
    """

    layer: int
    part: str
    index: int = 0

    def __lt__(self, other: Unit) -> bool:
        return self._place < other._place

    @property
    def _place(self) -> tuple[int, int, str, int]:
        places = [number for number, (part, _) in enumerate(ORDER) if part == self.part]
        return self.layer, places[0] if places else len(ORDER), self.part, self.index

    @property
    def name(self) -> str:
        """``3.down``; ``3.down.2`` for the third one there."""
        return f"{self.layer}.{self.part}" + (f".{self.index}" if self.index else "")

    @property
    def site(self) -> Site:
        """Where its direction is added: the output of its part.

        Raises:
            SteerkitError: its module makes several parts.
        """
        if self.part not in get_args(Part):
            raise SteerkitError(
                f"unit {self.name}: {self.part} makes several parts, so that its direction belongs to no single site"
            )
        return Site(self.layer, self.part, "out")  # type: ignore[arg-type]  # checked above

    def __str__(self) -> str:
        return self.name


def unit_named(name: str) -> Unit:
    """The unit of this `Unit.name`. Raises: SteerkitError when it is no unit's name."""
    layer, _, rest = name.partition(".")
    part, _, index = rest.partition(".")
    if not (layer.isdecimal() and part and (index.isdecimal() or not index)):
        raise SteerkitError(f"{name!r} names no unit; one is named 3.down: block, projection")
    return Unit(int(layer), part, int(index or 0))


@dataclass(frozen=True, eq=False)
class UnitGroup(ABC):
    """The units of one module; K of them.

    Attributes:
        layer: 0-based decoder block.
        part: as of `Unit`.
        name: the module's dotted name below its block.
        module: whose input [B, T, D_in] they are computed from, and whose output [B, T, D_out] has their sum in it.
    """

    layer: int
    part: str
    name: str
    module: nn.Module

    @property
    @abstractmethod
    def count(self) -> int:
        """K."""

    @property
    @abstractmethod
    def writes(self) -> Tensor:
        """[K, D_out] float32: what each unit adds to the module's output where its number is 1."""

    @abstractmethod
    def activations(self, x: Tensor) -> Tensor:
        """[..., D_in] inputs of the module → [..., K] numbers, float32."""

    @abstractmethod
    def watch(self, tell: Callable[[Tensor], None]) -> Any:
        """Have `tell` called with the numbers [B, T, K] of every forward. Returns a handle with `remove`."""

    @abstractmethod
    def edit(self, change: Callable[[Tensor], Tensor]) -> Any:
        """Have every forward go on with ``change(numbers)`` in place of the numbers [B, T, K]. Returns a handle.

        Raises:
            SteerkitError: the numbers are in the weights (merged), where they can't be changed.
        """

    @property
    def units(self) -> tuple[Unit, ...]:
        """The K units, in their order."""
        return tuple(Unit(self.layer, self.part, index) for index in range(self.count))


def units_in(groups: Sequence[UnitGroup]) -> tuple[Unit, ...]:
    """All units of groups, in their order: the columns of what is captured."""
    return tuple(unit for group in groups for unit in group.units)


def write_norms(groups: Sequence[UnitGroup]) -> Tensor:
    """[U] float32 length of what each unit adds where its number is 1.

    A LoRA's (A, B) and (c A, B / c) are the same adapter and have other numbers: number × length does not depend on c.
    """
    import torch

    return torch.cat([group.writes.norm(dim=1).cpu() for group in groups])
