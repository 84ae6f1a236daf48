"""Contexts of units that are 0 at nearly every token, as arrays: of a context's window only what is not 0 is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np

DTYPES = {
    "unit": np.int32,
    "trace": np.int32,
    "at": np.int32,
    "value": np.float32,
    "score": np.float64,
    "near": np.int32,
    "offset": np.int16,
    "values": np.float32,
}


@dataclass(frozen=True)
class SparseTable:
    """n contexts as columns, and the m active tokens in their windows, one context's after the other's.

    Attributes:
        unit: [n] column of the unit.
        trace: [n] number of the trace, in whoever's list.
        at: [n] token.
        value: [n] the unit's number there.
        score: [n] by which contexts are kept, the highest first.
        near: [n] how many of the m are each one's.
        offset: [m] place of an active token, counted from the context's own.
        values: [m] the unit's numbers there.
    """

    unit: np.ndarray
    trace: np.ndarray
    at: np.ndarray
    value: np.ndarray
    score: np.ndarray
    near: np.ndarray
    offset: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.unit)

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """Of its columns by name, which `columns` gives."""
        return cls(**{name: np.asarray(arrays[name], kind) for name, kind in DTYPES.items()})

    @classmethod
    def empty(cls) -> Self:
        """None."""
        return cls.of({name: np.zeros(0) for name in DTYPES})

    @classmethod
    def joined(cls, tables: Sequence[Self]) -> Self:
        """All of them, one after the other."""
        return cls.of({name: np.concatenate([getattr(table, name) for table in tables]) for name in DTYPES})

    def columns(self) -> dict[str, np.ndarray]:
        """By name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def rows(self, which: np.ndarray) -> Self:
        """Some of them, in this order."""
        inner = ragged((np.cumsum(self.near) - self.near)[which], self.near[which])
        return type(self).of(
            {name: column[inner if name in ("offset", "values") else which] for name, column in self.columns().items()}
        )

    def renumbered(self, numbers: np.ndarray) -> Self:
        """The same, with other numbers of the traces."""
        return type(self).of({**self.columns(), "trace": numbers[self.trace]})

    def window(self, row: int, before: int, after: int) -> np.ndarray:
        """[before + 1 + after] float32: a context's own number and those around it."""
        found = np.zeros(before + 1 + after, np.float32)
        end = int(self.near[: row + 1].sum())
        own = slice(end - int(self.near[row]), end)
        inside = (self.offset[own] >= -before) & (self.offset[own] <= after)
        found[self.offset[own][inside] + before] = self.values[own][inside]
        return found


def ragged(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """``starts[i], starts[i] + 1, ...``, `counts[i]` of them, for each i, one after the other."""
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(int(counts.sum()))
