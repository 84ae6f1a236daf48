"""Passages on which a description of a feature is tested: some with the feature, others of the same places without.

Negatives are read from other texts at the same distance from the beginning of the reasoning as the positives, and the
feature is 0 at all of their tokens. None of the passages overlaps a context that the description was made from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from steerkit.units.active_store import ActiveStore
from steerkit.units.contexts import Context

NEAR = 10
"""Tokens by which a negative may lie elsewhere than its positive."""


@dataclass(frozen=True)
class Passage:
    """A stretch of a text's reasoning.

    Attributes:
        first, end: tokens, the end not included.
        active: whether the feature is above 0 at any of them.
    """

    trace: str
    first: int
    end: int
    active: bool


class Passages:
    """The passages of a model's features.

    Args:
        before, after: tokens of a passage on each side of the one that it is taken for.
    """

    def __init__(self, store: ActiveStore, before: int, after: int) -> None:
        self.store, self.before, self.after = store, before, after
        ends = np.cumsum(store.lengths)
        self._rows = {
            trace: (int(end - length), int(end))
            for trace, length, end in zip(store.traces, store.lengths, ends, strict=True)
        }

    def test(
        self, column: int, positives: Sequence[Context], shown: Sequence[Context], count: int, rng: np.random.Generator
    ) -> list[Passage]:
        """`count` passages around some of these contexts, and as many of the same places without the feature, mixed.

        Args:
            positives: in the order in which they are tried.
            shown: contexts that the description was made from.

        Returns:
            Empty where there are not so many: of a feature that is rarely, or nearly always active.
        """
        _, row, _ = self.store.entries(column, column + 1)
        active = np.zeros(len(self.store.tokens) + 1, np.int64)
        active[row + 1] = 1
        counted = np.cumsum(active)  # active rows before each
        taken = [self._around(context.trace, context.at) for context in shown]
        found: list[Passage] = []
        for context in positives:
            passage = self._around(context.trace, context.at)
            if passage and not _overlaps(passage, [*taken, *found]):
                found.append(passage)
            if len(found) == count:
                break
        if len(found) < count:
            return []
        negatives: list[Passage] = []
        for passage in found:
            other = next(self._without(passage, counted, [*taken, *found, *negatives], rng), None)
            if other is None:
                return []
            negatives.append(other)
        mixed = [*found, *negatives]
        return [mixed[place] for place in rng.permutation(len(mixed))]

    def _around(self, trace: str, at: int) -> Passage | None:
        """The passage around an active token of the reasoning, cut at its ends; None for another token."""
        first, end = self._rows[trace]
        if first == end:
            return None
        begin, last = int(self.store.tokens[first]), int(self.store.tokens[end - 1])
        if not begin <= at <= last:
            return None
        return Passage(trace, max(at - self.before, begin), min(at + self.after, last) + 1, True)

    def _without(
        self, like: Passage, counted: np.ndarray, taken: Sequence[Passage | None], rng: np.random.Generator
    ) -> Iterator[Passage]:
        """Passages as long as this one in other texts, nearly as far from the beginning, in which nothing is active."""
        start, _ = self._rows[like.trace]
        place, length = like.first - int(self.store.tokens[start]), like.end - like.first
        shifts = sorted(range(-NEAR, NEAR + 1), key=abs)
        for number in rng.permutation(len(self.store.traces)).tolist():
            trace = self.store.traces[number]
            first, end = self._rows[trace]
            for shift in shifts:
                begin = first + place + shift
                if trace == like.trace or begin < first or begin + length > end:
                    continue
                if counted[begin + length] == counted[begin]:
                    token = int(self.store.tokens[begin])
                    passage = Passage(trace, token, token + length, False)
                    if not _overlaps(passage, taken):
                        yield passage


def _overlaps(passage: Passage, others: Sequence[Passage | None]) -> bool:
    return any(
        other is not None and other.trace == passage.trace and other.first < passage.end and passage.first < other.end
        for other in others
    )


def scores(passages: Sequence[Passage], named: frozenset[int]) -> tuple[float, float, float]:
    """(accuracy, precision, recall) of the passages that were named; precision is NaN where none was."""
    active = np.array([passage.active for passage in passages])
    said = np.isin(np.arange(len(passages)), list(named))
    right = float((active & said).sum())
    precision = right / said.sum() if said.any() else float("nan")
    return float((active == said).mean()), precision, right / active.sum()
