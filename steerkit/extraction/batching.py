"""Which texts share a forward: of like length, so that next to no padding is paid for, and as many as memory holds.

Length buckets and not packed rows: with tight buckets padding is 1 to 3 % of the tokens of real traces, for every
architecture. Packing several traces in one row needs a kernel for block-diagonal attention; as a dense mask it
costs attention over the whole row, more than the padding that it saves. Models with recurrent layers read traces of
one length together, or a trace alone.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np

from steerkit.errors import SteerkitError
from steerkit.models.memory import out_of_memory, release

if TYPE_CHECKING:
    from steerkit.models.language_model import LanguageModel

log = logging.getLogger("steerkit")
BATCH_TOKENS = 8192
CACHE_BYTES = 8 * 2**20  # of a block's widest float32 activations; larger ones leave a CPU's caches
CALL_TOKENS = 32  # what a forward costs beside its tokens, in tokens


class Text(Protocol):
    """What batches are made of: a trace with its spans (`steerkit.data.trace.Item`), a row with its gradients."""

    @property
    def ids(self) -> Sequence[int]:
        """Token ids."""

    @property
    def name(self) -> str:
        """For errors."""

    @property
    def order(self) -> str:
        """Where it stands among those of its length."""

    @property
    def cells(self) -> int:
        """Sums that it fills, for batches that are limited by them."""


T = TypeVar("T", bound=Text)


def batches(
    items: Sequence[T], batch_tokens: int = BATCH_TOKENS, most: int = 0, *, padded: bool = True
) -> list[list[T]]:
    """Whole traces sorted by length, at most `batch_tokens` padded tokens a batch (or one trace).

    Of all such cuts of the sorted traces the one with the least to compute: padded tokens, and `CALL_TOKENS` for
    each batch.

    Args:
        most: cells (a trace's label) that a batch of several traces may have; 0 is no limit. Each is a sum for every
            layer and offset, so that they and not the tokens may be what fills the memory.
        padded: whether traces of unequal length may share a batch.
    """
    if not padded:
        of_length = groupby(sorted(items, key=lambda i: len(i.ids)), lambda i: len(i.ids))
        return [batch for _, own in of_length for batch in batches(list(own), batch_tokens, most)]
    order = sorted(items, key=lambda i: (len(i.ids), i.order))
    lengths = np.array([len(item.ids) for item in order], dtype=np.int64)
    cells = np.cumsum([0, *(item.cells for item in order)])
    cost = np.zeros(len(order) + 1, dtype=np.int64)  # of the cheapest cut of the first n traces
    begins = np.zeros(len(order) + 1, dtype=np.int64)  # where its last batch begins
    for end in range(1, len(order) + 1):
        longest = max(int(lengths[end - 1]), 1)
        first = end - max(min(batch_tokens // longest, end), 1)
        if most:
            first = min(max(first, int(np.searchsorted(cells, cells[end] - most))), end - 1)
        costs = cost[first:end] + np.arange(end - first, 0, -1) * longest + CALL_TOKENS
        begins[end] = first + int(costs.argmin())
        cost[end] = costs.min()
    found, end = [], len(order)
    while end:
        begin = int(begins[end])
        found.append(order[begin:end])
        end = begin
    return found[::-1]


def comfortable_tokens(lm: LanguageModel, batch_tokens: int) -> int:
    """Padded tokens for a forward: `batch_tokens`, on a CPU no more than its caches take well."""
    if lm.device.type != "cpu":
        return batch_tokens
    return max(min(batch_tokens, CACHE_BYTES // (4 * lm.inner_width)), 1)


def groups(batches: Sequence[list[T]], most: int) -> list[list[list[T]]]:
    """Consecutive batches joined while their traces have at most `most` cells (a trace's label) in all."""
    found: list[list[list[T]]] = []
    room = 0
    for batch in batches:
        needed = sum(item.cells for item in batch)
        if found and needed <= room:
            found[-1].append(batch)
            room -= needed
        else:
            found.append([batch])
            room = most - needed
    return found


class Queue(Generic[T]):
    """Groups of batches to be run one after the other; what is left gets smaller batches when memory runs out.

    Attributes:
        left: groups that have not run, in order.
        done: batches that have.
    """

    def __init__(self, lm: LanguageModel, items: Sequence[T], batch_tokens: int, most: int = 0) -> None:
        """Plan: the batches of a group have at most `most` cells in all, or it holds a single trace (0: one batch)."""
        self.lm, self.most = lm, most
        self.left = deque(self._plan(items, comfortable_tokens(lm, batch_tokens)))
        self.done = 0
        self.ran_out = False

    @property
    def count(self) -> int:
        """Batches in all."""
        return self.done + sum(map(len, self.left))

    @contextmanager
    def next(self) -> Iterator[list[list[T]]]:
        """The next group. Out of memory inside is no error: the group stays, and its batches become half as large.

        Raises:
            SteerkitError: they are single traces already.
        """
        if self.ran_out:
            release()  # not where the error is caught: its traceback holds the activations
        self.ran_out = False
        group = self.left[0]
        try:
            yield group
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            self.ran_out = True
            self._halve(group, error)
        else:
            self.left.popleft()
            self.done += len(group)

    def _halve(self, group: list[list[T]], error: BaseException) -> None:
        rows, longest = max((len(batch), max(len(item.ids) for item in batch)) for batch in group)
        if rows == 1:
            names = [item.name for batch in group for item in batch if len(item.ids) == longest]
            raise SteerkitError(
                f"{self.lm.name}: memory ran out on {names[0]} alone, {longest} tokens: cut long texts, use "
                f"bf16 or several GPUs ({str(error).splitlines()[0]})"
            ) from error
        items = [item for rest in self.left for batch in rest for item in batch]
        tokens = rows * longest // 2
        log.warning(
            "%s: out of memory on %d texts of %d tokens; at most %d tokens a batch go on",
            self.lm.name,
            rows,
            longest,
            tokens,
        )
        self.left = deque(self._plan(items, tokens))

    def _plan(self, items: Sequence[T], tokens: int) -> list[list[list[T]]]:
        if self.lm.batches == "alone":
            tokens = 1
        return groups(batches(items, tokens, self.most, padded=self.lm.batches == "padded"), self.most)
