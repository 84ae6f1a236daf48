"""What scalars and probabilities tell of the next sentence, on the traces of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from steerkit.data.trace import Item
from steerkit.models.units import Unit
from steerkit.settings import Intervals
from steerkit.stats.intervals import Estimate
from steerkit.units.detection import Detected, detect, lift
from steerkit.units.marks import Which
from steerkit.units.probe import fit_probe
from steerkit.units.store import Scale, UnitStore
from steerkit_plugins.trained.halved import ENDS, HalvedTraces


@dataclass(frozen=True)
class Told:
    """What a model's units tell.

    Attributes:
        units: U of them.
        values: trace → [C, U] of the tokens that count.
        detected: each by itself.
        probe: all together, on the testing half.
    """

    units: tuple[Unit, ...]
    values: Mapping[str, np.ndarray]
    detected: Detected
    probe: Estimate

    def strongest(self, count: int) -> list[int]:
        """The units that tell best on the choosing half, the best first."""
        away = np.abs(self.detected.choosing - 0.5)
        return [int(unit) for unit in np.argsort(-away, kind="stable")[:count]]

    def sign(self, unit: int) -> int:
        """1, or -1 where the unit's negative tells on the choosing half."""
        return 1 if self.detected.choosing[unit] >= 0.5 else -1


class Cut(Mapping[str, np.ndarray]):
    """Trace → [C, U], the rows of the tokens that count, read when they are asked for."""

    def __init__(self, store: UnitStore, scale: Scale, places: Mapping[str, np.ndarray]) -> None:
        self.store, self.scale, self.places = store, scale, places

    def __getitem__(self, trace: str) -> np.ndarray:
        return self.store.of(trace, self.scale)[self.places[trace]]

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)


class Traces(HalvedTraces):
    """The traces of a run in two halves, and what a model's units tell on them.

    Attributes:
        config: of the experiment `scalars`.
    """

    def __init__(self, items: Sequence[Item], config: Any, intervals: Intervals, seed: int) -> None:
        super().__init__(items, config.label, config.halves_seed, intervals, seed)
        self.config = config

    def tell(self, where: Which, store: UnitStore) -> Told | None:
        """What a model's units tell; None where nothing can be chosen: no hit in the choosing half, or nothing else."""
        hits, tokens = self.counts(where, self.choosing)
        if not 0 < hits < tokens:
            return None
        values: Mapping[str, np.ndarray] = Cut(store, self.config.scale, self.places(where))
        if where == ENDS:
            values = dict(values)  # few
        marks = self.marks(where)
        probe = fit_probe(values, marks, self.choosing, penalty=self.config.penalty)
        return Told(
            units=store.units,
            values=values,
            detected=detect(values, marks, self.choosing, self.testing, **self.bootstrap),
            probe=self.contrast_of(where, [(1.0, {trace: probe.scores(values[trace]) for trace in self.testing})]),
        )

    def lift(self, label: str, told: Told, unit: int) -> float:
        """How much more often a label follows sentence ends of the testing half where a unit is strongest."""
        marks, most = self.marks(ENDS, label), self.config.strongest
        return lift(told.values, marks, self.testing, unit, told.sign(unit), most)
