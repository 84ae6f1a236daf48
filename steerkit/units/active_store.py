"""Numbers of units that are 0 nearly everywhere, on disk: what is active, unit by unit, in files of some texts each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from steerkit.errors import SteerkitError
from steerkit.units.parts import Parts


@dataclass(frozen=True)
class ActiveShard:
    """What is active at some tokens of some texts.

    Attributes:
        begins: [U + 1] where each unit's entries begin, and the end.
        row: [n] int32 token, a number among those of all texts of the shard.
        value: [n] float32, above 0.
        traces: ids of the texts.
        tokens: [N] places in the texts of the tokens that have rows, one text after the other.
        lengths: rows of each text, N in all.
    """

    begins: np.ndarray
    row: np.ndarray
    value: np.ndarray
    traces: tuple[str, ...]
    tokens: np.ndarray
    lengths: tuple[int, ...]

    @classmethod
    def of(
        cls, units: int, entries: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], places: dict[str, np.ndarray]
    ) -> Self:
        """Of (unit, row, value) entries in any order.

        Args:
            places: trace id → the places of its tokens that have rows.
        """
        unit, row, value = (np.concatenate([np.zeros(0), *(own[i] for own in entries)]) for i in range(3))
        order = np.lexsort((row, unit))
        begins = np.searchsorted(unit[order], np.arange(units + 1)).astype(np.int64)
        return cls(
            begins,
            row[order].astype(np.int32),
            value[order].astype(np.float32),
            tuple(places),
            np.concatenate([np.zeros(0), *places.values()]).astype(np.int32),
            tuple(map(len, places.values())),
        )

    def parts(self) -> Parts:
        """What a file of it holds; other parts may be beside it (`steerkit.units.parts.save_parts`)."""
        arrays = {"begins": self.begins, "row": self.row, "value": self.value, "tokens": self.tokens}
        return arrays, {"active": json.dumps({"traces": self.traces, "lengths": self.lengths})}


class ActiveStore:
    """The active units of all texts, in files that are read where they are needed.

    Attributes:
        files: in the order of storage.
        traces: ids in the order of storage.
        lengths: rows of each.
        tokens: [N] place in its text of each row.
        units: U.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        """Raises: SteerkitError: there is no file, one is damaged, or a text is there twice."""
        if not files:
            raise SteerkitError("units: there is no file of what is active")
        self.files = tuple(files)
        heads = [_head(file) for file in self.files]
        self.units = heads[0][3]
        self.traces = tuple(trace for head in heads for trace in head[0])
        self.lengths = np.array([length for head in heads for length in head[1]], np.int64)
        self.tokens = np.concatenate([head[2] for head in heads])
        self._firsts = np.cumsum([0, *(len(head[2]) for head in heads)])
        if len(set(self.traces)) < len(self.traces):
            raise SteerkitError(f"{self.files[0].parent}: the same text is in two files; make them again")

    @property
    def of(self) -> np.ndarray:
        """[N] number of each row's text."""
        return np.repeat(np.arange(len(self.traces)), self.lengths)

    def entries(self, first: int, end: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(unit, row, value) of what is active among the units `first` to `end` (not included), over all files."""
        from safetensors import safe_open

        parts = []
        for path, offset in zip(self.files, self._firsts, strict=False):
            with safe_open(path, "np") as file:
                begins = file.get_slice("begins")[first : end + 1]
                own = slice(int(begins[0]), int(begins[-1]))
                unit = np.repeat(np.arange(first, end), np.diff(begins))
                parts.append((unit, file.get_slice("row")[own] + offset, file.get_slice("value")[own]))
        unit, row, value = (np.concatenate([part[i] for part in parts]) for i in range(3))
        return unit, row, value

    def blocks(self, most: int) -> Iterator[tuple[int, int]]:
        """(first, end) of units in turn, at most so many of them."""
        for first in range(0, self.units, most):
            yield first, min(first + most, self.units)


def _head(path: Path) -> tuple[list[str], list[int], Any, int]:
    from safetensors import SafetensorError, safe_open

    from steerkit.store.strict_json import loads

    try:
        with safe_open(path, "np") as file:
            head = loads(file.metadata()["active"])
            tokens, units = file.get_tensor("tokens"), file.get_slice("begins").get_shape()[0] - 1
        if len(tokens) != sum(head["lengths"]) or len(head["traces"]) != len(head["lengths"]):
            raise ValueError("its parts don't fit together")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise SteerkitError(f"{path}: is not a file of active units ({error}); make it again") from error
    return head["traces"], head["lengths"], tokens, units
