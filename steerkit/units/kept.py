"""The contexts of every unit with the highest scores, kept while traces stream by."""

from __future__ import annotations

import numpy as np

from steerkit.units.sparse_table import SparseTable

WAITING = 200_000
"""Contexts that wait, at least, before they are held against those that are kept."""


class Kept:
    """At most `count` contexts of each of U units: those with the highest scores.

    Equal scores are ordered by trace id, then by token, so that the order in which contexts come doesn't matter.

    Attributes:
        bound: [U] float64, the lowest score with which a context may still be kept.
    """

    def __init__(self, units: int, count: int) -> None:
        self.units, self.count = units, count
        self.bound = np.full(units, -np.inf)
        self._table = SparseTable.empty()
        self._new: list[SparseTable] = []
        self._waiting = 0

    def add(self, table: SparseTable) -> None:
        """Take in contexts, which are ordered when `settle` is called."""
        if len(table):
            self._new.append(table)
            self._waiting += len(table)

    @property
    def full(self) -> bool:
        """Whether so many contexts wait that it pays to settle."""
        return self._waiting > max(WAITING, len(self._table))

    def settle(self, names: list[str]) -> SparseTable:
        """Those that are kept, ordered by unit, the highest score first.

        Args:
            names: ids of the traces, by their number.
        """
        if not self._new:
            return self._table
        table = SparseTable.joined([self._table, *self._new])
        self._new, self._waiting = [], 0
        rank = np.empty(len(names), np.int64)
        rank[np.argsort(np.array(names, dtype=object), kind="stable")] = np.arange(len(names))
        order = np.lexsort((table.at, rank[table.trace], -table.score, table.unit))
        unit = table.unit[order]
        place = np.arange(len(unit)) - np.searchsorted(unit, unit)
        self._table = table.rows(order[place < self.count])
        last = place == self.count - 1
        self.bound[unit[last]] = table.score[order[last]]
        return self._table
