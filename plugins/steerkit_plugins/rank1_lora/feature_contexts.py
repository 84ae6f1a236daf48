"""Features (units or neurons, each with a sign): their strongest contexts, and how often they are active."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from steerkit.store.files import atomic
from steerkit.units.contexts import Context, TopContexts

SIGNS = (1, -1)
SHOWN = {1: "+", -1: "−"}


@dataclass
class FeatureContexts:
    """Features of one model, gathered trace by trace. Parts of other traces can be merged.

    Attributes:
        names: of the U units.
        top: their contexts.
        tokens: that were read.
        active: [2, U] tokens at which the unit is above `top.least`, and below minus that.
        largest: [2, U] how far above 0, and below.
        auroc: [U] how well the unit tells what comes next, where that was measured.
        signs: in which a unit is a feature: both, or 1 alone for numbers that aren't below 0.
    """

    names: tuple[str, ...]
    top: TopContexts
    tokens: int
    active: np.ndarray
    largest: np.ndarray
    auroc: np.ndarray | None = None
    signs: tuple[int, ...] = SIGNS

    @classmethod
    def empty(cls, names: Sequence[str], top: TopContexts, signs: tuple[int, ...] = SIGNS) -> Self:
        """Of no trace yet."""
        active, largest = np.zeros((2, len(names)), np.int64), np.zeros((2, len(names)), np.float32)
        return cls(tuple(names), top, 0, active, largest, signs=signs)

    def add(self, trace: str, values: np.ndarray, first: int = 0) -> None:
        """Take in a trace's numbers [T, U]; tokens before `first` are no contexts of their own and don't count."""
        self.top.add(trace, values, first)
        self.count(values[first:])

    def count(self, values: np.ndarray) -> None:
        """Take in tokens' numbers [T, U] whose contexts `top` has already."""
        own = np.asarray(values, np.float32)
        self.tokens += len(own)
        for row, sign in enumerate(SIGNS):
            self.active[row] += (sign * own > self.top.least).sum(axis=0)
            self.largest[row] = np.maximum(self.largest[row], (sign * own).max(axis=0, initial=0.0))

    def merge(self, other: Self) -> None:
        """Take in what was gathered of other traces. Raises: SteerkitError as `TopContexts.merge`."""
        self.top.merge(other.top)
        self.tokens += other.tokens
        self.active += other.active
        self.largest = np.maximum(self.largest, other.largest)

    def __len__(self) -> int:
        """Features: units times signs."""
        return len(self.names) * len(self.signs)

    def features(self) -> Iterator[Found]:
        """Every unit with its signs, in their order."""
        for column, name in enumerate(self.names):
            for row, sign in enumerate(self.signs):
                share = self.active[row, column] / self.tokens if self.tokens else float("nan")
                contexts = tuple(self.top.found(column, sign))
                above = None if self.auroc is None else float(self.auroc[column])
                auroc = above if above is None or sign > 0 else 1 - above
                called = f"{name} {SHOWN[sign]}" if len(self.signs) > 1 else name
                largest = float(self.largest[row, column])
                yield Found(called, name, column, sign, float(share), largest, auroc, contexts)

    def save(self, path: Path) -> None:
        """Write it as JSON, whole or not at all; numbers come back as they were."""
        value = {
            "names": self.names,
            "tokens": self.tokens,
            "active": self.active.tolist(),
            "largest": self.largest.tolist(),
            "auroc": None if self.auroc is None else self.auroc.tolist(),
            "signs": self.signs,
            "top": self.top.to_json(),
        }
        with atomic(path) as temporary:
            temporary.write_text(json.dumps(_short(value), ensure_ascii=False, separators=(",", ":")), "utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """What `save` wrote."""
        value = json.loads(path.read_text("utf-8"))
        active, largest = np.array(value["active"], np.int64), np.array(value["largest"], np.float32)
        auroc = None if value["auroc"] is None else np.array(value["auroc"])
        names, signs, top = tuple(value["names"]), tuple(value["signs"]), TopContexts.from_json(value["top"])
        return cls(names, top, value["tokens"], active, largest, auroc, signs)


@dataclass(frozen=True)
class Found:
    """A feature: a unit with a sign.

    Attributes:
        name: ``3.down +``; without a sign where the unit has one alone.
        unit, column: the unit's name and place.
        share: of tokens at which it is active.
        largest: how far from 0 it gets in this direction.
        auroc: how well it tells what comes next, where that was measured.
        contexts: the strongest first.
    """

    name: str
    unit: str
    column: int
    sign: int
    share: float
    largest: float
    auroc: float | None
    contexts: tuple[Context, ...]


def _short(value: Any) -> Any:
    """JSON with nine digits a number: what float32 needs to come back."""
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    return [_short(item) for item in value] if isinstance(value, list | tuple) else value
