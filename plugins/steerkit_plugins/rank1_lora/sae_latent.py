"""Move one latent of a sparse autoencoder over a LoRA's scalars: all scalars at once, each by its share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from steerkit.data.site import Site
from steerkit.errors import SteerkitError
from steerkit.interfaces import Config, EditContext, Intervention
from steerkit_plugins.rank1_lora.sae.trained import TrainedSAE
from steerkit_plugins.steerers.added import Added
from steerkit_plugins.steerers.saved_lora import SavedLora, files_of, sites_of

if TYPE_CHECKING:
    from torch import Tensor


class SaeLatentConfig(Config):
    adapter: str
    """Folder of the adapter, as PEFT saves it: ``RUN/trained/adapter.0``."""
    sae: str
    """The sparse autoencoder over this adapter's scalars, ``.safetensors``."""
    latent: int = Field(ge=0)
    """Number of the latent, from 0."""
    sign: Literal[-1, 1] = 1
    """1 raises the latent, -1 lowers it."""
    least: float = Field(default=0.0, ge=0, lt=1)
    """Sites whose share of the norm is below this are left out, and the others add the whole norm. 0: none is."""

    def reads(self) -> Mapping[str, Sequence[Path]]:
        return {"adapter": files_of(self.adapter), "sae": [Path(self.sae)]}


class SaeLatent(Intervention):
    """y + sign · norm · w/‖w‖ over the outputs y of all adapted projections, taken together.

    A latent's row of the decoder says how much each raw scalar s_u changes when it grows by 1; the outputs then change
    by w = (Δs_u · γ B_u) over all units u. `norm` is the length of the whole change: each site adds its share, and the
    squares of the shares sum to 1. A condition places it once at each of `sites`.
    """

    Config = SaeLatentConfig

    def sites(self, depth: int) -> Sequence[Site]:
        return sorted(self._added.directions)

    def forward(self, x: Tensor, at: EditContext) -> Tensor:
        return x + at.norm * self._added.at(at.site, x)

    @property
    def shares(self) -> Mapping[Site, float]:
        """Site → the share of the norm that it adds."""
        return {site: float(part.norm()) for site, part in sorted(self._added.directions.items())}

    @cached_property
    def _added(self) -> Added:
        c = self.config
        title = f"{c.sae}: latent {c.latent}"
        parts: dict[Site, Tensor] = {}
        for site, part in self._parts():
            parts[site] = parts[site] + part if site in parts else part  # several ranks
        kept = _larger(parts, c.least)
        if not kept:
            raise SteerkitError(f"{title} moves no scalar that adds something, so it has no direction")
        length = _length(kept)
        return Added(title, {site: c.sign * part / length for site, part in kept.items()})

    def _parts(self) -> Iterator[tuple[Site, Tensor]]:
        """Δs_u γ B_u of each unit that the latent moves, and where it is added."""
        adapter = SavedLora(self.config.adapter)
        writes = adapter.writes(adapter.units)
        norms = np.array([float(writes[unit].norm()) for unit in adapter.units])
        sae = TrainedSAE.load(self.config.sae, adapter.units, norms)
        row = sae.decoder_row(self.config.latent)
        moved = [(unit, by) for unit, by in zip(adapter.units, row.tolist(), strict=True) if by]
        for (unit, by), site in zip(moved, sites_of([unit for unit, _ in moved]), strict=True):
            yield site, by * writes[unit]


def _larger(parts: Mapping[Site, Tensor], least: float) -> dict[Site, Tensor]:
    """The parts with at least this share of the whole length, the largest one in any case."""
    whole = _length(parts)
    shares = {site: float(part.norm()) / whole for site, part in parts.items()} if whole else {}
    bound = min(least, max(shares.values(), default=0.0))
    return {site: parts[site] for site, share in shares.items() if share >= bound and share > 0}


def _length(parts: Mapping[Site, Tensor]) -> float:
    return float(sum(float(part.double().square().sum()) for part in parts.values()) ** 0.5)
