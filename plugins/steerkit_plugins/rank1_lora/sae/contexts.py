"""What an SAE's latents are on one trace after the other, and where they are strongest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from steerkit.units.contexts import TopContexts
from steerkit.units.store import UnitStore
from steerkit_plugins.rank1_lora.sae.trained import TrainedSAE


@dataclass(frozen=True, eq=False)
class LatentValues(Mapping[str, np.ndarray]):
    """Trace → [T, F] latents by the threshold, made when they are asked for: all at once would fill memory.

    Attributes:
        latents: the columns; all for None.
        places: trace → the tokens that are rows; all for None.
    """

    sae: TrainedSAE
    store: UnitStore
    latents: Sequence[int] | None = None
    places: Mapping[str, np.ndarray] | None = None

    def __getitem__(self, trace: str) -> np.ndarray:
        rows = self.store.of(trace, "raw")
        return self.sae.activations(rows if self.places is None else rows[self.places[trace]], self.latents)

    def __iter__(self) -> Iterator[str]:
        return iter(self.store.traces)

    def __len__(self) -> int:
        return len(self.store.traces)


def latent_contexts(
    sae: TrainedSAE,
    store: UnitStore,
    *,
    traces: Sequence[str] | None = None,
    count: int = 32,
    width: int = 48,
    per_trace: int = 4,
    least: float = 0.0,
    first: Mapping[str, int] | None = None,
    on_batch: Callable[[int, int], None] = lambda done, total: None,
) -> TopContexts:
    """The strongest tokens of every latent; its unit is the latent's number. Defaults are the paper's.

    Args:
        traces: those that are read; all when left out.
        count, width, per_trace, least: as of `TopContexts`.
        first: trace → its first token that can be a context of its own; 0 when left out.
        on_batch: takes (traces done, traces in all).

    Raises:
        SteerkitError: the SAE is of other units.
    """
    sae.check(store.units, store.norms)
    found, names = TopContexts(count, width, per_trace, least), store.traces if traces is None else traces
    values = LatentValues(sae, store)
    for number, trace in enumerate(names, 1):
        found.add(trace, values[trace], (first or {}).get(trace, 0))
        on_batch(number, len(names))
    return found
