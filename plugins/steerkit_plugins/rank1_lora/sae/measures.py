"""How well an SAE rebuilds rows that it was not trained on, and how many of its latents are on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from steerkit.stats.intervals import cluster_intervals
from steerkit_plugins.rank1_lora.sae.batch_topk import On, decode
from steerkit_plugins.rank1_lora.sae.measured import Measures
from steerkit_plugins.rank1_lora.sae.rows import moments, order, shuffled
from steerkit_plugins.rank1_lora.sae.trained import Inference, TrainedSAE


def measure(
    sae: TrainedSAE,
    rows: Iterable[np.ndarray],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    device: torch.device | None = None,
    on_batch: Callable[[int, int], None] = lambda done, total: None,
) -> dict[Inference, Measures]:
    """Measures of both ways of inference.

    Args:
        rows: blocks [n, U] of raw scalars, each a trace, read twice. Rows are shuffled, so that batches are like those
            of training: in batches of neighbouring tokens some take the budget of others.
        confidence, resamples, seed: of the intervals.
        on_batch: takes (rows done, rows in all).

    Raises:
        SteerkitError: there are no rows.
    """
    of = moments(rows)
    used = sae.to(device or torch.device("cpu"))
    scales = _Scales(sae, of.mean)
    wholes: list[np.ndarray] = []
    lengths: list[int] = []

    def prepared() -> Iterator[np.ndarray]:
        for block in rows:
            wholes.append(scales.whole(block))
            lengths.append(len(block))
            yield sae.prepared(block).numpy()

    size = sae.options.batch_rows
    with shuffled(prepared(), of.count, sae.options.seed) as data, torch.no_grad():
        owner = np.empty(of.count, np.int32)
        owner[order(of.count, sae.options.seed)] = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        sums = {how: _Sums(sae.latents, len(lengths)) for how in get_args(Inference)}
        for begin in range(0, of.count, size):
            x = torch.from_numpy(np.array(data[begin : begin + size])).to(used.device)
            for how, found in sums.items():
                on = used.on(x, how)
                found.add(owner[begin : begin + size], scales.squares(x - decode(used.weights, on)), on)
            on_batch(begin + len(x), of.count)
    bootstrap = {"confidence": confidence, "resamples": resamples, "seed": seed}
    return {how: _measures(found, np.array(wholes), sae, **bootstrap) for how, found in sums.items()}


class _Scales:
    """The two scales of U numbers that errors are told in: those that the SAE reads, and contributions."""

    def __init__(self, sae: TrainedSAE, mean: np.ndarray) -> None:
        factor = sae.factor.astype(np.float64)
        self._raw = np.stack([factor / sae.spread, sae.norms.astype(np.float64)])  # of a raw scalar
        to_contribution = np.divide(sae.norms * sae.spread, factor, out=np.zeros_like(factor), where=factor != 0)
        self._read = np.stack([np.ones_like(factor), to_contribution])  # of what is read
        self._mean = mean

    def whole(self, block: np.ndarray) -> np.ndarray:
        """[1 + 2 + 2 U] of a trace's raw rows: their number, and in both scales their squares' sum and their sums.

        All less the mean of all rows, so that no digits are lost where it is far from 0.
        """
        away = block.astype(np.float64) - self._mean
        squares = self._raw**2 @ (away**2).sum(axis=0)
        return np.concatenate([[len(block)], squares, (self._raw * away.sum(axis=0)).ravel()])

    def squares(self, error: Tensor) -> np.ndarray:
        """[n, U] errors of what is read → [n, 2] squared errors in both scales."""
        found: np.ndarray = error.double().square().cpu().numpy() @ (self._read**2).T
        return found


class _Sums:
    """By trace: squared errors in two scales and the number of entries that are on [C, 3]; latents that ever were."""

    def __init__(self, latents: int, traces: int) -> None:
        self.by_trace = np.zeros((traces, 3))
        self.alive = np.zeros(latents, bool)

    def add(self, owner: np.ndarray, squares: np.ndarray, on: On) -> None:
        real = (on.values != 0).cpu().numpy()
        self.alive[on.latents.cpu().numpy()[real]] = True
        ends = np.append(on.begins.cpu().numpy(), len(real))
        entries = np.diff(np.concatenate([[0], np.cumsum(real)])[ends])
        for column, values in enumerate((*squares.T, entries)):
            self.by_trace[:, column] += np.bincount(owner, values, len(self.by_trace))


def _measures(found: _Sums, wholes: np.ndarray, sae: TrainedSAE, **bootstrap: Any) -> Measures:
    def statistic(sums: np.ndarray) -> np.ndarray:
        errors, entries, rows, squares = sums[:, :2], sums[:, 2], sums[:, 3], sums[:, 4:6]
        means = sums[:, 6:].reshape(len(sums), 2, -1)
        return np.column_stack([errors / (squares - (means**2).sum(axis=2) / rows[:, None]), entries / rows])

    values, low, high = cluster_intervals(np.column_stack([found.by_trace, wholes]), statistic, **bootstrap)
    fvu, contribution, l0 = ((float(values[i]), float(low[i]), float(high[i])) for i in range(3))
    return Measures(fvu, contribution, l0, int(found.alive.sum()), sae.latents, int(wholes[:, 0].sum()))
