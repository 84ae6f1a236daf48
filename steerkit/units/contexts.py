"""Where each unit is strongest: top contexts of both signs, kept while traces stream by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from steerkit.errors import SteerkitError
from steerkit.units.context_table import ContextTable

WAITING = 100_000
"""Candidates that wait before they are held against those that are kept."""


@dataclass(frozen=True)
class Context:
    """A token at which a unit is strong, and the unit's numbers around it.

    Attributes:
        at: the token, an index in ``trace.tokens``.
        value: the unit's number there.
        first: token of the first of `values`.
        values: the unit's numbers at the tokens from `first` on, cut at the trace's ends.
    """

    trace: str
    at: int
    value: float
    first: int
    values: tuple[float, ...]


class TopContexts:
    """The strongest tokens of every unit, positive and negative apart.

    Traces may come in any order, also to several of these that are merged: the result is the same. Equal numbers are
    ordered by trace id, then by token. Memory: about count · (2 · width + 1) numbers for each unit and sign.

    Args:
        count: contexts kept of a unit and sign, at most.
        width: tokens kept on each side.
        per_trace: contexts that one trace may have of a unit and sign, at most.
        least: only numbers whose size is above it count.
    """

    def __init__(self, count: int, width: int, per_trace: int, least: float) -> None:
        if count < 1 or width < 0 or per_trace < 1 or least < 0:
            raise SteerkitError("contexts: count and per_trace are 1 or more, width and least 0 or more")
        self.count, self.width, self.per_trace, self.least = count, width, per_trace, least
        self.units = 0
        self._names: dict[str, int] = {}  # trace id → its number in the tables
        self._kept = ContextTable.empty(width)
        self._new: list[ContextTable] = []
        self._floor = np.zeros(0)  # [2 U] size that a candidate must reach to be kept

    def add(self, trace: str, values: np.ndarray, first: int = 0) -> None:
        """Take in a trace's numbers [T, U].

        Args:
            first: tokens before this one are no contexts of their own; they are seen around others.

        Raises:
            SteerkitError: the trace has been added, or has another number of units.
        """
        if trace in self._names:
            raise SteerkitError(f"contexts: trace {trace!r} has been added before")
        self._fit(values.shape[1])
        self._names[trace] = number = len(self._names)
        values = np.asarray(values, dtype=np.float32)
        for sign, side in ((1, values), (-1, -values)):
            unit, at = self._strongest(side[first:], 0 if sign > 0 else self.units)
            if len(unit):
                self._new.append(ContextTable.around(values, unit, at + first, sign, number, self.width))
        if sum(len(table.unit) for table in self._new) > max(WAITING, len(self._kept.unit)):
            self._settle()

    def merge(self, other: Self) -> None:
        """Take in what another has kept, of other traces. Raises: SteerkitError for other settings or a trace twice."""
        mine, theirs = ((c.count, c.width, c.per_trace, c.least) for c in (self, other))
        if mine != theirs:
            raise SteerkitError(f"contexts: kept with other settings: {mine} and {theirs}")
        if both := sorted(self._names.keys() & other._names.keys()):
            raise SteerkitError(f"contexts: trace {both[0]!r} is in both")
        if other.units:
            self._fit(other.units)
        numbers = np.array([len(self._names) + i for i in range(len(other._names))], dtype=np.int64)
        self._names |= dict(zip(other._names, numbers.tolist(), strict=True))
        self._new += [table.renumbered(numbers) for table in (other._kept, *other._new)]
        self._settle()

    def found(self, unit: int, sign: int) -> list[Context]:
        """The contexts of a unit (its column) and sign (1 or -1), the strongest first."""
        self._settle()
        t, names = self._kept, list(self._names)
        rows = np.flatnonzero((t.unit == unit) & (t.sign == sign))
        return [self._context(int(row), names) for row in rows]

    def to_json(self) -> Any:
        """JSON of it."""
        self._settle()
        names = list(self._names)
        kept = [
            [int(self._kept.unit[row]), int(self._kept.sign[row]), c.trace, c.at, c.first, list(map(_short, c.values))]
            for row in range(len(self._kept.unit))
            for c in (self._context(row, names),)
        ]
        settings = [self.count, self.width, self.per_trace, self.least]
        return {"settings": settings, "units": self.units, "traces": names, "contexts": kept}

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """What `to_json` gave."""
        made = cls(*value["settings"])
        made._names = {name: number for number, name in enumerate(value["traces"])}
        if value["units"]:
            made._fit(value["units"])
        made._new = [ContextTable.of(value["contexts"], made._names, made.width)] if value["contexts"] else []
        made._settle()
        return made

    def _fit(self, units: int) -> None:
        if self.units and units != self.units:
            raise SteerkitError(f"contexts: {units} units, where those before had {self.units}")
        if not self.units:
            self.units, self._floor = units, np.full(2 * units, self.least, dtype=np.float64)

    def _strongest(self, side: np.ndarray, offset: int) -> tuple[np.ndarray, np.ndarray]:
        """(unit, token) of the strongest tokens of a trace, at most `per_trace` a unit, the earliest of equal ones."""
        if not len(side):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        floor = self._floor[offset : offset + self.units]
        columns = np.flatnonzero((side.max(axis=0) >= floor) & (side.max(axis=0) > self.least))
        own = side[:, columns]
        most = min(self.per_trace, len(own))
        cut = np.partition(own, len(own) - most, axis=0)[len(own) - most]
        above, equal = own > cut, own == cut
        room = most - above.sum(axis=0)
        chosen = (above | (equal & (np.cumsum(equal, axis=0) <= room))) & (own > self.least) & (own >= floor[columns])
        unit, at = np.nonzero(chosen.T)
        return columns[unit], at

    def _settle(self) -> None:
        """Keep the `count` strongest of each unit and sign, in order."""
        if not self._new:
            return
        table = ContextTable.joined([self._kept, *self._new])
        self._new = []
        rank = np.argsort(np.argsort(np.array(list(self._names), dtype=object), kind="stable"), kind="stable")
        group = table.unit + self.units * (table.sign < 0)
        order = np.lexsort((table.at, rank[table.trace], -np.abs(table.value), group))
        group = group[order]
        place = np.arange(len(group)) - np.searchsorted(group, group)  # in its group
        kept = place < self.count
        self._kept = table.rows(order[kept])
        full = place == self.count - 1
        self._floor[group[full]] = np.abs(table.value[order[full]])

    def _context(self, row: int, names: list[str]) -> Context:
        t = self._kept
        window = t.window[row]
        inside = np.flatnonzero(~np.isnan(window))
        at = int(t.at[row])
        first = at - self.width + int(inside[0])
        return Context(names[t.trace[row]], at, float(t.value[row]), first, tuple(map(float, window[inside])))


def _short(value: float) -> float:
    """The same float32 number, in as few digits as it has."""
    return float(str(np.float32(value)))
