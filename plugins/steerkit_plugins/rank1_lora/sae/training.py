"""Training an SAE on rows of scalars, then its threshold.

sae-lens (6.54, which installs beside transformers 5) trains BatchTopK, too. It is not used: the author's variant (no
ReLU, an auxiliary loss that encodes the error and learns through it) can't be said in it, its threshold is a moving
average of training, it brings transformer-lens along, and a step takes it about half as long again (benchmarks/sae.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steerkit.errors import SteerkitError
from steerkit_plugins.rank1_lora.sae.batch_topk import encode, scores
from steerkit_plugins.rank1_lora.sae.learner import Learner
from steerkit_plugins.rank1_lora.sae.options import SAEOptions
from steerkit_plugins.rank1_lora.sae.rows import Moments, moments, shuffled
from steerkit_plugins.rank1_lora.sae.threshold import threshold_for
from steerkit_plugins.rank1_lora.sae.trained import TrainedSAE

BLOCK = 1024
"""Rows that are encoded at once where nothing is learned."""


def train(
    rows: Iterable[np.ndarray],
    units: Sequence[str],
    norms: np.ndarray,
    options: SAEOptions,
    *,
    device: torch.device | None = None,
    meta: Mapping[str, Any] | None = None,
    on_batch: Callable[[int, int], None] = lambda done, total: None,
) -> TrainedSAE:
    """Train one SAE; the same rows, options and kind of device give the same one.

    Args:
        rows: blocks [n, U] of raw scalars; read twice.
        units: names of the U columns.
        norms: [U] γ‖B‖ of each.
        meta: provenance, JSON.
        on_batch: takes (rows done, rows in all).

    Raises:
        SteerkitError: no rows, rows of another width, or a loss that is not finite.
    """
    factor = np.asarray(norms if options.scale == "contribution" else np.ones(len(units)), dtype=np.float32)
    of = moments(_scaled(rows, factor))
    shift, spread = _standard(of, options)
    total = of.count * (options.epochs + 2)
    with shuffled(((block - shift) / spread for block in _scaled(rows, factor)), of.count, options.seed) as data:
        learner = Learner(len(units), options, device or torch.device("cpu"))
        weights, done = learner.weights, 0
        for _ in range(options.epochs):
            for x in _batches(data, options.batch_rows, learner.device):
                learner.step(x)
                done += len(x)
                on_batch(done, total)
        told = learner.told()

        def scored() -> Iterator[Tensor]:
            nonlocal done
            for x in _batches(data, BLOCK, learner.device):
                with torch.no_grad():
                    yield scores(weights, encode(weights, x, options))
                done += len(x)
                on_batch(done, total)

        threshold = threshold_for(scored, options.k)
    return TrainedSAE(
        options=options,
        units=tuple(units),
        norms=np.asarray(norms, dtype=np.float32),
        shift=shift,
        spread=spread,
        weights=weights.detached(),
        threshold=threshold,
        told={"rows": of.count, **told},
        meta=dict(meta or {}),
    )


def _scaled(rows: Iterable[np.ndarray], factor: np.ndarray) -> Iterator[np.ndarray]:
    for block in rows:
        if block.shape[1:] != factor.shape:
            raise SteerkitError(f"rows have {block.shape[1]} numbers, and there are {len(factor)} units")
        yield block * factor


def _standard(of: Moments, options: SAEOptions) -> tuple[np.ndarray, np.ndarray]:
    """[U] float32: what is taken off the scalars, and what they are divided by then; 1 for one that never changes."""
    shift = of.mean if options.center == "mean" else np.zeros_like(of.mean)
    spread = np.where(of.sd > 0, of.sd, 1.0) if options.norm == "per_unit_std" else np.ones_like(of.mean)
    return shift.astype(np.float32), spread.astype(np.float32)


def _batches(data: np.ndarray, rows: int, device: torch.device) -> Iterator[Tensor]:
    """The rows in their order; the last batch is smaller."""
    for begin in range(0, len(data), rows):
        yield torch.from_numpy(np.array(data[begin : begin + rows])).to(device)
