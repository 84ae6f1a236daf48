"""Move one scalar of a LoRA, on the model that has the adapter or on any other of its kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import field_validator

from steerkit.data.site import Site
from steerkit.errors import SteerkitError
from steerkit.interfaces import Config, EditContext, Intervention
from steerkit.models.units import Unit, unit_named
from steerkit_plugins.steerers.added import Added
from steerkit_plugins.steerers.saved_lora import SavedLora, files_of, sites_of

if TYPE_CHECKING:
    from torch import Tensor


class LoraScalarConfig(Config):
    adapter: str
    """Folder of the adapter, as PEFT saves it: ``RUN/trained/adapter.0``."""
    unit: str
    """The scalar that is moved: block and projection, ``2.gate``; ``2.gate.1`` for the second rank there."""
    sign: Literal[-1, 1] = 1
    """1 raises the scalar, -1 lowers it."""

    @field_validator("unit")
    @classmethod
    def _unit(cls, value: str) -> str:
        try:
            return unit_named(value).name
        except SteerkitError as error:
            raise ValueError(str(error)) from error

    def reads(self) -> Mapping[str, Sequence[Path]]:
        return {"adapter": files_of(self.adapter)}


class LoraScalar(Intervention):
    """y + sign · norm · B/‖B‖ at the output y of the unit's projection.

    The same as s + sign · norm / (γ ‖B‖) where the adapter is on (arXiv 2511.06739: s = A x adds s · γ B there). It
    takes no direction of a vector, and acts at the unit's own site alone.
    """

    Config = LoraScalarConfig

    def sites(self, depth: int) -> Sequence[Site]:
        return list(sites_of([self._unit]))

    def forward(self, x: Tensor, at: EditContext) -> Tensor:
        return x + at.norm * self._added.at(at.site, x)

    @cached_property
    def _unit(self) -> Unit:
        return self._adapter.unit(self.config.unit)

    @cached_property
    def _adapter(self) -> SavedLora:
        return SavedLora(self.config.adapter)

    @cached_property
    def _added(self) -> Added:
        c = self.config
        (site,) = sites_of([self._unit])
        write = self._adapter.writes([self._unit])[self._unit]
        length = write.norm()
        if not length > 0:
            raise SteerkitError(f"{c.adapter}: unit {c.unit} adds nothing (its B is zero), so it has no direction")
        return Added(f"{c.adapter}: unit {c.unit}", {site: c.sign * write / length})
