"""Units set to 0, for each row of a batch by itself; no weights are touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from steerkit.models.units import Unit, UnitGroup

if TYPE_CHECKING:
    from torch import Tensor


class Zeroing:
    """Which units are zeroed in which row of the next forward; see `zeroing`."""

    def __init__(self, groups: Sequence[UnitGroup]) -> None:
        self.groups = groups
        self.kept: list[Tensor | None] = [None] * len(groups)

    def assign(self, sets: Sequence[frozenset[Unit]], rows: int = 1) -> None:
        """Zero these units: each set in so many rows, one after the other."""
        import torch

        for number, group in enumerate(self.groups):
            units = group.units
            if any(unit in own for own in sets for unit in units):
                keep = torch.tensor([[float(unit not in own) for unit in units] for own in sets])
                self.kept[number] = keep.repeat_interleave(rows, 0)[:, None]
            else:
                self.kept[number] = None

    def change(self, number: int) -> Callable[[Tensor], Tensor]:
        """What a group's numbers [B, T, K] become."""

        def keep(numbers: Tensor) -> Tensor:
            own = self.kept[number]
            return numbers if own is None else numbers * own.to(numbers.device, numbers.dtype)

        return keep


@contextmanager
def zeroing(groups: Sequence[UnitGroup]) -> Iterator[Zeroing]:
    """Inside, units can be zeroed row by row; behind it, also after an exception, the model is as it was.

    Raises:
        SteerkitError: a group's numbers can't be changed (merged weights).
    """
    zeroed = Zeroing(groups)
    handles: list[Any] = []
    try:
        for number, group in enumerate(groups):
            handles.append(group.edit(zeroed.change(number)))
        yield zeroed
    finally:
        for handle in handles:
            handle.remove()
