"""How well an SAE rebuilds rows that it was not trained on, and how many of its latents are on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from steerkit_plugins.rank1_lora.sae.batch_topk import On, decode
from steerkit_plugins.rank1_lora.sae.rows import moments, shuffled
from steerkit_plugins.rank1_lora.sae.trained import Inference, TrainedSAE


@dataclass(frozen=True)
class Measures:
    """Of one way of inference.

    Attributes:
        fvu: squared error as a share of the squared deviation from the rows' mean, in the numbers that the SAE reads.
        fvu_contribution: the same in contributions s · γ‖B‖, which SAEs that read different numbers have in common.
        l0: latents that are on at a token, mean.
        alive: latents that are on at any of the rows.
        dead: share of all that are not.
        rows: number of rows.
    """

    fvu: float
    fvu_contribution: float
    l0: float
    alive: int
    dead: float
    rows: int


def measure(
    sae: TrainedSAE,
    rows: Iterable[np.ndarray],
    *,
    device: torch.device | None = None,
    on_batch: Callable[[int, int], None] = lambda done, total: None,
) -> dict[Inference, Measures]:
    """Measures of both ways of inference.

    Args:
        rows: blocks [n, U] of raw scalars, read twice. They are shuffled, so that batches are like those of training:
            in batches of neighbouring tokens some take the budget of others.
        on_batch: takes (rows done, rows in all).

    Raises:
        SteerkitError: there are no rows.
    """
    of = moments(rows)
    used = sae.to(device or torch.device("cpu"))
    per_unit = sae.spread * np.divide(sae.norms, sae.factor, out=np.zeros_like(sae.norms), where=sae.factor != 0)
    to_contribution = torch.from_numpy(per_unit.astype(np.float64))
    spread = sae.spread.astype(np.float64)
    own, contributed = ((of.sd * by) ** 2 for by in (sae.factor / spread, sae.norms))
    sums = {how: _Sums(sae.latents, len(sae.units)) for how in get_args(Inference)}
    prepared = (sae.prepared(block).numpy() for block in rows)
    with shuffled(prepared, of.count, sae.options.seed) as data, torch.no_grad():
        for begin in range(0, of.count, sae.options.batch_rows):
            x = torch.from_numpy(np.array(data[begin : begin + sae.options.batch_rows])).to(used.device)
            for how, found in sums.items():
                on = used.on(x, how)
                found.add(x - decode(used.weights, on), on)
            on_batch(begin + len(x), of.count)
    return {
        how: Measures(
            fvu=_share(found.squares.sum(), own.sum() * of.count),
            fvu_contribution=_share(found.squares @ to_contribution**2, contributed.sum() * of.count),
            l0=found.entries / of.count,
            alive=int(found.alive.sum()),
            dead=1 - float(found.alive.float().mean()),
            rows=of.count,
        )
        for how, found in sums.items()
    }


class _Sums:
    """Over batches: squared errors [U], entries that are on, and latents that ever were."""

    def __init__(self, latents: int, units: int) -> None:
        self.squares = torch.zeros(units, dtype=torch.float64)
        self.alive = torch.zeros(latents, dtype=torch.bool)
        self.entries = 0

    def add(self, error: Tensor, on: On) -> None:
        self.squares += error.double().square().sum(dim=0).cpu()
        real = on.latents[on.values != 0].cpu()
        self.alive[real] = True
        self.entries += len(real)


def _share(part: Tensor, whole: float) -> float:
    """NaN where there is nothing to explain."""
    return float(part) / float(whole) if whole > 0 else float("nan")
