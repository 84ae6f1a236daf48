"""What is known of units that are 0 at nearly every token: how often and how strongly active, and in which contexts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np

from steerkit.errors import SteerkitError
from steerkit.models.units import Unit
from steerkit.units.contexts import Context
from steerkit.units.kept import Kept
from steerkit.units.parts import Parts, save_parts
from steerkit.units.sparse_table import DTYPES, SparseTable


@dataclass(frozen=True)
class Layout:
    """Which units there are, and what is kept of them.

    Attributes:
        layers: 0-based decoder block of each group of units.
        counts: units of each group; U in all.
        part: as of `Unit`.
        regions: names of the parts of a text (``prompt``, ``thinking``, ...), R of them.
        top: strongest contexts kept of a unit.
        sample: contexts kept of a unit, drawn from all tokens at which it is active.
        per_trace: of the strongest contexts, those that one trace may have.
        before, after: tokens of a window on each side.
    """

    layers: tuple[int, ...]
    counts: tuple[int, ...]
    part: str
    regions: tuple[str, ...]
    top: int = 20
    sample: int = 30
    per_trace: int = 4
    before: int = 50
    after: int = 20

    @property
    def units(self) -> int:
        """U."""
        return sum(self.counts)

    @property
    def firsts(self) -> list[int]:
        """Column of each group's first unit."""
        return (np.cumsum(self.counts) - self.counts).tolist()  # type: ignore[no-any-return]

    def unit(self, column: int) -> Unit:
        """The unit of a column."""
        group = int(np.searchsorted(np.cumsum(self.counts), column, "right"))
        return Unit(self.layers[group], self.part, column - self.firsts[group])

    def column(self, unit: Unit) -> int:
        """The column of a unit. Raises: SteerkitError where there is none."""
        if unit.part != self.part or unit.layer not in self.layers:
            raise SteerkitError(
                f"unit {unit}: there are units {self.part} of blocks {', '.join(map(str, self.layers))}"
            )
        group = self.layers.index(unit.layer)
        if unit.index >= self.counts[group]:
            raise SteerkitError(f"unit {unit}: block {unit.layer} has {self.counts[group]}")
        return self.firsts[group] + unit.index


class CollectedUnits:
    """Sums over tokens and contexts of U units, gathered text by text; what other texts gave can be merged.

    Tokens that count are those that the collection was told to; regions are counted at all tokens.

    Attributes:
        layout: of the units.
        norms: [U] float32 ‖s W_dec‖, the length of what a unit adds where its number is 1.
        tokens: that count.
        active: [U] int64, of those the ones at which the unit is above 0.
        total: [U] float64, sum of its numbers there.
        largest: [U] float32.
        region_tokens: [R] int64.
        region_active: [R, U] int64.
        names, lengths: ids of the texts and their tokens.
    """

    def __init__(self, layout: Layout, norms: np.ndarray) -> None:
        units = layout.units
        self.layout, self.norms, self.tokens = layout, np.asarray(norms, np.float32), 0
        self.active, self.total = np.zeros(units, np.int64), np.zeros(units)
        self.largest = np.zeros(units, np.float32)
        self.region_tokens = np.zeros(len(layout.regions), np.int64)
        self.region_active = np.zeros((len(layout.regions), units), np.int64)
        self.names: list[str] = []
        self.lengths: list[int] = []
        self._numbers: dict[str, int] = {}
        self.top, self.sample = Kept(units, layout.top), Kept(units, layout.sample)

    # --- what is asked of it ------------------------------------------------------------------------------------

    @property
    def layer(self) -> np.ndarray:
        """[U] 0-based block of each unit."""
        return np.repeat(np.array(self.layout.layers), self.layout.counts)

    @property
    def frequency(self) -> np.ndarray:
        """[U] share of the tokens that count at which a unit is active."""
        return self.active / max(self.tokens, 1)

    @property
    def mean(self) -> np.ndarray:
        """[U] mean number at the tokens where it is active; 0 for a unit that never is."""
        return self.total / np.maximum(self.active, 1)

    @property
    def contribution(self) -> np.ndarray:
        """[U] mean of f · ‖s W_dec‖ over the tokens that count: the length that a unit adds per token."""
        return self.total * self.norms / max(self.tokens, 1)

    @property
    def alive(self) -> np.ndarray:
        """[U] bool: active at any token that counts."""
        return self.active > 0

    def density(self) -> np.ndarray:
        """[R, U] share of a region's tokens at which a unit is active; NaN for a region without tokens."""
        with np.errstate(invalid="ignore"):
            return self.region_active / np.where(self.region_tokens, self.region_tokens, np.nan)[:, None]

    def strongest(self) -> SparseTable:
        """The strongest contexts: a table ordered by unit (column), the highest number first; `names` has the traces.

        ``table.unit, table.trace, table.at, table.value`` are [n].
        """
        return self.top.settle(self.names)

    def drawn(self) -> SparseTable:
        """Contexts drawn evenly from all tokens at which a unit is active, ordered by unit, then by the draw."""
        return self.sample.settle(self.names)

    def contexts(self, column: int, count: int | None = None) -> list[Context]:
        """A unit's strongest contexts, the strongest first."""
        return list(self._contexts(self.strongest(), column))[:count]

    def quantiles(self, column: int, bins: int) -> list[list[Context]]:
        """Contexts of a unit in `bins` parts by its number, the highest part first: where it is weak, too.

        The drawn contexts are a sample of all tokens at which it is active, so that its order gives the quantiles.
        """
        found = sorted(self._contexts(self.drawn(), column), key=lambda c: (-c.value, c.trace, c.at))
        edges = [len(found) * number // bins for number in range(bins + 1)]
        return [found[a:b] for a, b in pairwise(edges)]

    def _contexts(self, table: SparseTable, column: int) -> Iterator[Context]:
        begin, end = np.searchsorted(table.unit, [column, column + 1]).tolist()
        own = table.rows(np.arange(begin, end))
        for row in range(len(own)):
            trace, at = int(own.trace[row]), int(own.at[row])
            before = min(self.layout.before, at)
            after = min(self.layout.after, self.lengths[trace] - 1 - at)
            values = own.window(row, before, after)
            yield Context(self.names[trace], at, float(own.value[row]), at - before, tuple(map(float, values)))

    # --- how it is filled ---------------------------------------------------------------------------------------

    def number(self, name: str, length: int) -> int:
        """A new text's number. Raises: SteerkitError when it has been added before."""
        if name in self._numbers:
            raise SteerkitError(f"units: text {name!r} has been added before")
        self._numbers[name] = len(self.names)
        self.names.append(name)
        self.lengths.append(length)
        return self._numbers[name]

    def settle(self) -> None:
        """Hold what waits against what is kept, where so much waits that it pays."""
        for kept in (self.top, self.sample):
            if kept.full:
                kept.settle(self.names)

    def merge(self, other: Self) -> None:
        """Take in what was gathered of other texts. Raises: SteerkitError for other units, or a text twice."""
        if other.layout != self.layout or not np.array_equal(other.norms, self.norms):
            raise SteerkitError("units: collected of other units, or with other settings")
        numbers = [self.number(name, length) for name, length in zip(other.names, other.lengths, strict=True)]
        self.tokens += other.tokens
        self.active += other.active
        self.total += other.total
        self.largest = np.maximum(self.largest, other.largest)
        self.region_tokens += other.region_tokens
        self.region_active += other.region_active
        own = np.array(numbers, np.int64)
        self.top.add(other.strongest().renumbered(own))
        self.sample.add(other.drawn().renumbered(own))
        self.settle()

    # --- its file -----------------------------------------------------------------------------------------------

    def parts(self) -> Parts:
        """What a file of it holds; other parts may be beside it (`steerkit.units.parts.save_parts`)."""
        arrays = {name: getattr(self, name) for name in SUMS}
        for kind, table in (("top", self.strongest()), ("sample", self.drawn())):
            arrays |= {f"{kind}.{name}": column for name, column in table.columns().items()}
        head = {"layout": vars(self.layout), "tokens": self.tokens, "names": self.names, "lengths": self.lengths}
        return arrays, {"units": json.dumps(head)}

    def save(self, path: Path) -> None:
        """Write a safetensors file, whole or not at all."""
        save_parts(path, self.parts())

    @classmethod
    def load(cls, path: Path) -> Self:
        """What a file with `parts` holds. Raises: SteerkitError when it is damaged."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "np") as file:
                head = json.loads(file.metadata()["units"])
                columns = [f"{kind}.{name}" for kind in ("top", "sample") for name in DTYPES]
                arrays = {name: file.get_tensor(name) for name in (*SUMS, *columns)}
            made = cls(_layout(head["layout"]), arrays["norms"])
            for name in SUMS:
                setattr(made, name, arrays[name])
            made.tokens = int(head["tokens"])
            for name, length in zip(head["names"], head["lengths"], strict=True):
                made.number(name, length)
            for kind, kept in (("top", made.top), ("sample", made.sample)):
                kept.add(SparseTable.of({name: arrays[f"{kind}.{name}"] for name in DTYPES}))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise SteerkitError(f"{path}: is not a file of collected units ({error}); make it again") from error
        return made


SUMS: Sequence[str] = ("norms", "active", "total", "largest", "region_tokens", "region_active")


def _layout(value: dict[str, Any]) -> Layout:
    own: dict[str, Any] = {name: tuple(item) if isinstance(item, list) else item for name, item in value.items()}
    return Layout(**own)
