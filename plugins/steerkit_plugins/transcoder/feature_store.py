"""What features of trained transcoders do on a run's traces: what the step `transcoder-features` gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from steerkit.units.active_store import ActiveStore
from steerkit.units.collected import CollectedUnits


class FeatureStore(Mapping[str, CollectedUnits]):
    """Model (one a training seed) → its features: sums over tokens, and contexts. Read when they are asked for.

    Columns of a `CollectedUnits` are features, block after block: ``own.layout.unit(column)`` is the `Unit`, and
    ``own.layout.column(unit)`` its column. ``own.frequency``, ``own.contribution`` and ``own.alive`` are [U];
    ``own.strongest()`` is a table of the strongest contexts, ordered by feature, strongest first, whose columns
    ``unit, trace, at, value`` are [n]; ``own.names[trace]`` is the trace's id, and `at` an index in its tokens.

    Attributes:
        shards: files of each model: what is active at the tokens of the reasoning.
    """

    def __init__(self, found: Mapping[str, CollectedUnits | Path], shards: Mapping[str, tuple[Path, ...]]) -> None:
        self._found, self.shards = dict(found), dict(shards)

    def __getitem__(self, model: str) -> CollectedUnits:
        own = self._found[model]
        if isinstance(own, Path):
            own = self._found[model] = CollectedUnits.load(own)
        return own

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def active(self, model: str) -> ActiveStore:
        """What is active at the tokens of the reasoning, feature by feature."""
        return ActiveStore(self.shards[model])
