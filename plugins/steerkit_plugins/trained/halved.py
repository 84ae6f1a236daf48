"""The traces of a run in two halves: on one is chosen, on the other tested."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np

from steerkit.data.trace import Item
from steerkit.settings import Intervals
from steerkit.stats.intervals import ENOUGH_POOLED, Estimate
from steerkit.units.detection import contrast, halves
from steerkit.units.marks import Marks, Which, marks_of

ENDS: Which = "sentence ends"
EVERY: Which = "all tokens"
WHERE: tuple[Which, ...] = (ENDS, EVERY)
FEW_HITS = 30
"""Sentences with the label in the testing half below which a caution stands."""


class HalvedTraces:
    """The traces of a run in two halves, and which of their tokens count where.

    Attributes:
        label: of the sentences that are to be told beforehand.
        choosing, testing: the halves.
        labels: of the traces' sentences.
        bootstrap: confidence, resamples and seed of intervals.
    """

    def __init__(self, items: Sequence[Item], label: str, halves_seed: int, intervals: Intervals, seed: int) -> None:
        self.label = label
        self.choosing, self.testing = halves([item.trace.id for item in items], halves_seed)
        self.labels = sorted({span.label for item in items for span in item.spans})
        self.bootstrap: Mapping[str, Any] = {
            "confidence": intervals.confidence,
            "resamples": intervals.resamples,
            "seed": seed,
        }
        self._places: dict[Which, dict[str, np.ndarray]] = {}
        self._marks: dict[tuple[Which, str], dict[str, Marks]] = {}
        self._whole: dict[tuple[Which, str], dict[str, Marks]] = {}
        for where, each in {(where, each) for where in WHERE for each in (*self.labels, label)}:
            whole = marks_of(items, each, where)
            places = {trace: np.flatnonzero(own.candidates) for trace, own in whole.items()}
            self._places[where], self._whole[where, each] = places, whole
            self._marks[where, each] = {
                trace: Marks(np.ones(len(at), bool), whole[trace].hits[at]) for trace, at in places.items()
            }

    def cautions(self, seeds: int, others: str) -> Iterator[str]:
        """What limits AUROCs on the testing half.

        Args:
            seeds: trainings that are looked at.
            others: what another training may have in another way.
        """
        hits, _ = self.counts(ENDS, self.testing)
        if hits < FEW_HITS:
            yield (
                f"Few {self.label} sentences: AUROCs rest on {hits} of them in the testing half. Take more traces "
                "(prompts.extract)."
            )
        if len(self.testing) < ENOUGH_POOLED:
            yield (
                f"Few traces behind a pooled figure: AUROCs rest on {len(self.testing)}. With fewer than "
                f"{ENOUGH_POOLED}, a bootstrap interval can miss the true value more often than its level says "
                "(docs/statistics.md)."
            )
        if seeds == 1:
            yield f"One training seed: intervals cover traces alone, and another training may have other {others}."
        else:
            yield f"Intervals cover traces alone: the {seeds} trainings are taken as they are."

    def whole(self, where: Which, label: str = "") -> dict[str, Marks]:
        """Of all tokens of each trace; of the label, or another one."""
        return self._whole[where, label or self.label]

    def marks(self, where: Which, label: str = "") -> dict[str, Marks]:
        """Of the tokens that count alone; of the label, or another one."""
        return self._marks[where, label or self.label]

    def places(self, where: Which) -> dict[str, np.ndarray]:
        """Trace → the tokens that count."""
        return self._places[where]

    def counts(self, where: Which, half: Set[str]) -> tuple[int, int]:
        """Hits of a half, and tokens that count."""
        own = [mark for trace, mark in self.marks(where).items() if trace in half]
        return sum(int(mark.hits.sum()) for mark in own), sum(len(mark.hits) for mark in own)

    def contrast(self, where: Which, terms: Sequence[tuple[float, Mapping[str, np.ndarray]]]) -> Estimate:
        """Σ weight · AUROC of scores, trace → [T], on the testing half, paired by trace."""
        places = self._places[where]
        return self.contrast_of(where, [(w, {t: own[t][places[t]] for t in self.testing}) for w, own in terms])

    def contrast_of(self, where: Which, terms: Sequence[tuple[float, Mapping[str, np.ndarray]]]) -> Estimate:
        """The same of scores of the tokens that count alone."""
        return contrast(terms, self.marks(where), **self.bootstrap)
