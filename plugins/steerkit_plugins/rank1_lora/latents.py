"""What the latents of SAEs tell of the next sentence, beside the best scalar of the same model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from steerkit.data.trace import Item
from steerkit.stats.intervals import Estimate
from steerkit.units.detection import Detected, contrast, detect, halves
from steerkit.units.marks import Marks, Which, marks_of
from steerkit.units.store import UnitStore
from steerkit_plugins.rank1_lora.sae.contexts import LatentValues
from steerkit_plugins.rank1_lora.sae.trained import TrainedSAE

Scores = Mapping[str, np.ndarray]
"""Trace of the testing half → [C] scores of the tokens that count."""


@dataclass(frozen=True)
class Best:
    """The unit or latent that tells best on the choosing half.

    Attributes:
        number: its column.
        sign: -1 where its negative tells.
        choosing: its AUROC on the choosing half, at least 0.5.
        tested: AUROC on the testing half.
    """

    number: int
    sign: int
    choosing: float
    tested: Estimate
    scores: Scores


class Telling:
    """The tokens that count in one place, and what tells which of them a labelled sentence follows.

    Args:
        halves_seed: deals the traces into halves.
        bootstrap: confidence, resamples and seed of intervals.

    Attributes:
        choosing, testing: the halves.
    """

    def __init__(self, items: Sequence[Item], label: str, where: Which, halves_seed: int, **bootstrap: Any) -> None:
        whole = marks_of(items, label, where)
        self.choosing, self.testing = halves(list(whole), halves_seed)
        self._places = {trace: np.flatnonzero(marks.candidates) for trace, marks in whole.items()}
        self._marks = {
            trace: Marks(np.ones(len(at), bool), whole[trace].hits[at]) for trace, at in self._places.items()
        }
        self._bootstrap = bootstrap

    @property
    def enough(self) -> bool:
        """Whether there is a hit in each half, and another token."""
        both = (self.choosing, self.testing)
        return all(0 < self.hits(half) < sum(len(self._places[t]) for t in half) for half in both)

    def hits(self, half: Iterable[str]) -> int:
        """Tokens of a half that such a sentence follows."""
        return sum(int(self._marks[trace].hits.sum()) for trace in half)

    def scalar(self, store: UnitStore) -> Best:
        """The best scalar. No AUROC depends on its scale."""
        return self._best({trace: store.of(trace, "raw")[at] for trace, at in self._places.items()})

    def latent(self, sae: TrainedSAE, store: UnitStore) -> Best:
        """The best latent."""
        return self._best(LatentValues(sae, store, places=self._places))

    def contrast(self, terms: Sequence[tuple[float, Best]]) -> Estimate:
        """Σ weight · AUROC on the testing half, paired by trace."""
        return contrast([(weight, best.scores) for weight, best in terms], self._marks, **self._bootstrap)

    def _best(self, values: Mapping[str, np.ndarray]) -> Best:
        found: Detected = detect(values, self._marks, self.choosing, self.testing, **self._bootstrap)
        own = found.choosing[found.best]
        scores = {trace: found.sign * values[trace][:, found.best] for trace in self.testing}
        return Best(found.best, found.sign, float(max(own, 1 - own)), found.tested, scores)
