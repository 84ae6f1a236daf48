"""The rows that SAEs learn from and are measured on: scalars of whole traces, read from their store when asked for."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from steerkit.errors import SteerkitError
from steerkit.units.store import UnitStore


@dataclass(frozen=True)
class TraceRows:
    """Raw scalars of some traces, a block [T, U] a trace; may be read again and again.

    Attributes:
        first_tokens: whether each trace's first token is among them.
    """

    store: UnitStore
    traces: Sequence[str]
    first_tokens: bool = True

    def __iter__(self) -> Iterator[np.ndarray]:
        for trace in self.traces:
            yield self.store.of(trace, "raw")[0 if self.first_tokens else 1 :]


@dataclass(frozen=True)
class Moments:
    """Number, mean [U] and standard deviation [U] of rows, float64."""

    count: int
    mean: np.ndarray
    sd: np.ndarray


def moments(blocks: Iterable[np.ndarray]) -> Moments:
    """Of all rows of blocks [n, U]; merged block by block (Chan et al. 1983), which loses no digits to a far mean.

    Raises:
        SteerkitError: there are no rows, or some are not finite.
    """
    count, mean, squares = 0, np.zeros(1), np.zeros(1)
    for block in blocks:
        if not len(block):
            continue
        if not np.isfinite(block).all():
            raise SteerkitError("scalars are not finite at some tokens, so that no SAE can be trained on them")
        wide = block.astype(np.float64)
        own = wide.mean(axis=0)
        apart = own - mean
        total = count + len(wide)
        squares = squares + ((wide - own) ** 2).sum(axis=0) + apart**2 * (count * len(wide) / total)
        mean = mean + apart * (len(wide) / total)
        count = total
    if not count:
        raise SteerkitError("an SAE needs rows to learn from, and the traces have no tokens")
    return Moments(count, mean, np.sqrt(squares / count))


def order(count: int, seed: int) -> np.ndarray:
    """[count] where each row stands after shuffling."""
    return np.random.default_rng(seed).permutation(count)


@contextmanager
def shuffled(blocks: Iterable[np.ndarray], count: int, seed: int) -> Iterator[np.ndarray]:
    """[count, U] float32 rows in random order, in a temporary file: memory does not grow with their number."""
    places = order(count, seed)
    with tempfile.TemporaryDirectory() as folder:
        found: np.memmap | None = None
        done = 0
        for block in blocks:
            if found is None:
                shape = (count, block.shape[1])
                found = np.memmap(Path(folder) / "rows", dtype=np.float32, mode="w+", shape=shape)
            found[places[done : done + len(block)]] = block
            done += len(block)
        if found is None or done != count:
            raise SteerkitError(f"{count} rows were announced and {done} came")
        yield found
        del found
