"""Ablations of one batch of texts: the full model once, then every set from the block that it begins at."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from steerkit.extraction.batching import CALL_TOKENS
from steerkit.models.memory import out_of_memory, release
from steerkit.units.continued import begun_at, can_begin_at, kept_outputs, logits_at
from steerkit.units.divergence import CountedText, Direction, log_probabilities, position_sums, predicting

if TYPE_CHECKING:
    from steerkit.models.language_model import LanguageModel
    from steerkit.models.units import Unit
    from steerkit.units.zeroing import Zeroing

Sums = tuple[np.ndarray, np.ndarray]
"""[S, B] KL and cross-entropy of S sets and B texts."""


class TextBatch:
    """Texts padded on the right, and the P positions where any of them has a prediction that counts.

    Attributes:
        ids: [B, T].
        places: [P] positions.
        at: [M] the counted ones among the B · P, row by row.
        row: [M] the text of each.
        targets: [M] the token that comes next.
    """

    def __init__(self, lm: LanguageModel, texts: Sequence[CountedText]) -> None:
        import torch

        ids = np.zeros((len(texts), max(len(text.ids) for text in texts)), np.int64)
        for row, text in enumerate(texts):
            ids[row, : len(text.ids)] = text.ids
        own = predicting(texts)
        places = np.flatnonzero(own.any(0))
        rows, columns = np.nonzero(own[:, places])
        self.ids = torch.from_numpy(ids).to(lm.device)
        self.places = torch.from_numpy(places)  # stays on the CPU: the head may be on another device than the ids
        self.at = torch.from_numpy(rows * len(places) + columns)
        self.targets = torch.from_numpy(ids[rows, places[columns] + 1])
        self.row, self.rows = rows, len(texts)

    def summed(self, values: np.ndarray, copies: int = 1) -> np.ndarray:
        """[copies · M] values of positions → [copies, B] sums of texts."""
        rows = np.concatenate([self.row + copy * self.rows for copy in range(copies)])
        return np.asarray(np.bincount(rows, values, copies * self.rows)).reshape(copies, self.rows)


class AblatedBatch(TextBatch):
    """The full model's predictions for a batch, and what becomes of them without some units."""

    def __init__(self, lm: LanguageModel, texts: Sequence[CountedText], zeroed: Zeroing, direction: Direction) -> None:
        super().__init__(lm, texts)
        self.lm, self.zeroed, self.direction = lm, zeroed, direction
        self.outputs: dict[int, Any] = {}
        self.most = sys.maxsize  # sets of a forward that memory holds

    def read(self, layers: set[int]) -> np.ndarray:
        """[B] cross-entropy of the texts under the full model; what these blocks put out is kept."""
        with kept_outputs(self.lm, layers, self.outputs):
            logits = logits_at(self.lm, self.ids, self.places).flatten(0, 1)
        self.at, self.targets = self.at.to(logits.device), self.targets.to(logits.device)
        self.reference = log_probabilities(logits[self.at])
        found = -self.reference.gather(1, self.targets[:, None]).squeeze(1).double()
        totals: np.ndarray = self.summed(found.cpu().numpy())[0]
        return totals

    def begins(self, first: int) -> int:
        """The block at which a forward begins whose first zeroed unit is in this one: 0 where it can't begin there."""
        return first if can_begin_at(self.lm, first, self.ids, self.outputs) else 0

    def cuts(self, begins: Sequence[int], batch_tokens: int, room: int) -> list[range]:
        """Sets, in the order of the blocks that they begin at, cut so that those of a forward cost least.

        A forward costs its tokens, and `CALL_TOKENS` besides, in every block from the first that any of its sets needs.
        """
        tokens, width = self.ids.numel(), self.reference.shape[1]
        most = max(1, min(batch_tokens // tokens, room // (self.rows * len(self.places) * width)))
        if self.lm.batches == "alone":
            most = 1
        blocks = [self.lm.depth - begin + 1 for begin in begins]  # and the head
        cost, cut = [0.0], [0]
        for end in range(1, len(begins) + 1):
            found = [
                (cost[start] + (tokens * (end - start) + CALL_TOKENS) * blocks[start], start)
                for start in range(max(0, end - most), end)
            ]
            cost.append(min(found)[0])
            cut.append(min(found)[1])
        parts, end = [], len(begins)
        while end:
            parts.append(range(cut[end], end))
            end = cut[end]
        return parts[::-1]

    def ablated(self, sets: Sequence[frozenset[Unit]], first: int) -> Sums:
        """What becomes of the predictions without each of these sets, which share a forward from block `first`;
        several where memory doesn't hold it."""
        parts = [sets[begin : begin + self.most] for begin in range(0, len(sets), self.most)]
        try:
            found = [self._forward(part, first) for part in parts]
            return np.concatenate([kl for kl, _ in found]), np.concatenate([ce for _, ce in found])
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or len(parts[0]) == 1:
                raise
        release()  # not where the error is caught: its traceback holds the activations
        self.most = len(parts[0]) // 2
        return self.ablated(sets, first)

    def noise(self, count: int) -> np.ndarray:
        """[B] KL of the full model against itself, when it runs with the rows of so many sets."""
        found: np.ndarray = self.ablated([frozenset()] * count, 0)[0][-1] if count else np.zeros(self.rows)
        return found

    def _forward(self, sets: Sequence[frozenset[Unit]], first: int) -> Sums:
        import torch

        count, rows = len(sets), self.rows * len(self.places)
        self.zeroed.assign(sets, self.rows)
        try:
            with begun_at(self.lm, first, self.outputs, count):
                logits = logits_at(self.lm, self.ids.repeat(count, 1), self.places).flatten(0, 1)
        finally:
            self.zeroed.assign(())
        at = torch.cat([self.at + copy * rows for copy in range(count)])
        of = torch.arange(len(self.at), device=at.device).repeat(count)
        targets = self.targets.repeat(count)
        kl, ce = position_sums(logits, at, self.reference, of, targets, self.direction)
        return self.summed(kl, count), self.summed(ce, count)
