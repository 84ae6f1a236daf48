"""Contexts of units as arrays: cut out of a trace's numbers, put together and taken apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np


@dataclass(frozen=True)
class ContextTable:
    """n contexts as columns.

    Attributes:
        unit: [n] column of the unit.
        sign: [n] 1 or -1.
        trace: [n] number of the trace, in whoever's list.
        at: [n] token.
        value: [n] float32, the unit's number there.
        window: [n, 2 width + 1] float32, the numbers around it; NaN beyond the trace's ends.
    """

    unit: np.ndarray
    sign: np.ndarray
    trace: np.ndarray
    at: np.ndarray
    value: np.ndarray
    window: np.ndarray

    @classmethod
    def empty(cls, width: int) -> Self:
        """None."""
        none = np.zeros(0, np.int64)
        return cls(none, none, none, none, np.zeros(0, np.float32), np.zeros((0, 2 * width + 1), np.float32))

    @classmethod
    def around(cls, values: np.ndarray, unit: np.ndarray, at: np.ndarray, sign: int, trace: int, width: int) -> Self:
        """Contexts of one trace."""
        places = at[:, None] + np.arange(-width, width + 1)
        inside = (places >= 0) & (places < len(values))
        window = np.where(inside, values[np.clip(places, 0, len(values) - 1), unit[:, None]], np.float32("nan"))
        return cls(unit, np.full_like(unit, sign), np.full_like(unit, trace), at, values[at, unit], window)

    @classmethod
    def of(cls, rows: list[Any], names: dict[str, int], width: int) -> Self:
        """Contexts of their JSON."""
        window = np.full((len(rows), 2 * width + 1), np.nan, np.float32)
        for number, (_, _, _, at, first, values) in enumerate(rows):
            begin = first - at + width
            window[number, begin : begin + len(values)] = values
        unit, sign, at = (np.array([row[i] for row in rows], np.int64) for i in (0, 1, 3))
        trace = np.array([names[row[2]] for row in rows], np.int64)
        return cls(unit, sign, trace, at, window[:, width], window)

    @classmethod
    def joined(cls, tables: list[Self]) -> Self:
        """All of them, one after the other."""
        return cls(*(np.concatenate(columns) for columns in zip(*(table.columns() for table in tables), strict=True)))

    def renumbered(self, numbers: np.ndarray) -> Self:
        """The same, with other numbers of the traces."""
        return type(self)(self.unit, self.sign, numbers[self.trace], self.at, self.value, self.window)

    def rows(self, which: np.ndarray) -> Self:
        """Some of them, in this order."""
        return type(self)(*(column[which] for column in self.columns()))

    def columns(self) -> Iterator[np.ndarray]:
        """In the order of the attributes."""
        yield from (self.unit, self.sign, self.trace, self.at, self.value, self.window)
