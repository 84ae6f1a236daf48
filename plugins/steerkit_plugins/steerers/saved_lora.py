"""A LoRA in a folder, as PEFT saves it: which units it has, and what each of them adds. Only asked tensors are read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.data.site import Part, Site
from steerkit.errors import SteerkitError, nearest
from steerkit.models.adapters import CONFIG, WEIGHTS
from steerkit.models.language_model import BLOCK_NAMES
from steerkit.models.lora_units import PROJECTIONS
from steerkit.models.site_table import ABOVE, ATTENTION, MLP, NAMES
from steerkit.models.units import Unit, unit_named

if TYPE_CHECKING:
    from torch import Tensor

_WRITES = re.compile(rf"^(?:.*?\.)?(?:{'|'.join(BLOCK_NAMES)})\.(\d+)\.(.+)\.lora_B\.weight$")


def files_of(folder: str) -> list[Path]:
    """The files of an adapter on which its units depend."""
    return [Path(folder) / CONFIG, Path(folder) / WEIGHTS]


@dataclass(frozen=True)
class SavedLora:
    """A LoRA's files.

    Attributes:
        folder: with ``adapter_config.json`` and ``adapter_model.safetensors``.

    Every property and method raises:
        SteerkitError: there is no such adapter, or its units don't add s · γ B.
    """

    folder: str

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """Its units, in the order of computation, as `steerkit.models.lora_units.lora_groups` has them."""
        with self._open() as file:
            ranks = {at: file.get_slice(key).get_shape()[1] for at, key in self._keys.items()}
        return tuple(sorted(Unit(*at, index) for at, rank in ranks.items() for index in range(rank)))

    def unit(self, name: str) -> Unit:
        """The unit of this name. Raises: SteerkitError: there is none; with the nearest one."""
        found = unit_named(name)
        if found not in self.units:
            known = [unit.name for unit in self.units]
            raise SteerkitError(f"{self.folder}: the adapter has no unit {name!r}; {nearest(name, known)}")
        return found

    def writes(self, units: Sequence[Unit]) -> Mapping[Unit, Tensor]:
        """Unit → γ B, [D_out] float32 on the CPU: what it adds to the output of its projection where s is 1."""
        wanted = {(unit.layer, unit.part) for unit in units}
        with self._open() as file:
            read = {at: self._scaled(file.get_tensor(self._keys[at])) for at in wanted}
        return {unit: read[unit.layer, unit.part][:, unit.index] for unit in units}

    def _scaled(self, b: Tensor) -> Tensor:
        rank = b.shape[1]
        alpha = float(self._settings["lora_alpha"])
        return b.float() * (alpha / (rank**0.5 if self._settings.get("use_rslora") else rank))

    @cached_property
    def _keys(self) -> Mapping[tuple[int, str], str]:
        """(block, part) → name of B in the file."""
        found: dict[tuple[int, str], str] = {}
        with self._open() as file:
            names = sorted(file.keys())
        for key in names:
            if not (told := _WRITES.match(key)):
                continue
            at = int(told[1]), _part(told[2])
            if at in found:
                raise SteerkitError(f"{self.folder}: {found[at]} and {key} are both block {at[0]}: {at[1]}")
            found[at] = key
        if not found:
            raise SteerkitError(f"{self.folder}: its {WEIGHTS} has no LoRA of a decoder block")
        return found

    @cached_property
    def _settings(self) -> Mapping[str, Any]:
        """The adapter's configuration."""
        path = Path(self.folder) / CONFIG
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise self._missing(CONFIG) from error
        except ValueError as error:
            raise SteerkitError(f"{path}: is no JSON: {error}") from error
        kind = told.get("peft_type") if isinstance(told, dict) else None
        if kind != "LORA" or "lora_alpha" not in told:
            raise SteerkitError(f"{self.folder}: is no LoRA ({CONFIG} says peft_type: {kind}), so it has no scalars")
        if told.get("use_dora") or told.get("lora_bias"):
            what = "DoRA" if told.get("use_dora") else "a LoRA with biases"
            raise SteerkitError(f"{self.folder}: is {what}: what it adds is not scalar · γ B, so it has no scalars")
        if told.get("alpha_pattern"):
            raise SteerkitError(f"{self.folder}: scales modules apart (alpha_pattern); train it with one lora_alpha")
        return told

    def _open(self) -> Any:
        from safetensors import SafetensorError, safe_open

        _ = self._settings
        path = Path(self.folder) / WEIGHTS
        if not path.is_file():
            raise self._missing(WEIGHTS)
        try:
            return safe_open(path, "pt")
        except (OSError, SafetensorError) as error:
            raise SteerkitError(f"{path}: can't be read: {error}") from error

    def _missing(self, name: str) -> SteerkitError:
        return SteerkitError(
            f"{self.folder}: has no {name}; give the folder in which PEFT or a run has saved an adapter "
            "(RUN/trained/NAME.SEED)"
        )


def sites_of(units: Sequence[Unit]) -> Iterator[Site]:
    """Where units add. Raises: SteerkitError for those whose module makes several parts; all are named."""
    parts = sorted({unit.part for unit in units if unit.part not in PROJECTIONS})
    if parts:
        names = ", ".join(unit.name for unit in units if unit.part in parts[:1])
        raise SteerkitError(
            f"{names}: {', '.join(parts)} makes several parts (a fused projection), so that its units belong to no "
            "single site and can't be steered there"
        )
    yield from (unit.site for unit in units)


def _part(name: str) -> str:
    """The projection that a module's name below its block says; its own name where it says none, or several."""
    above, _, last = name.rpartition(".")
    found: list[Part] = [part for part in PROJECTIONS if last in NAMES[part] and (not above or above in _HOLDERS[part])]
    return found[0] if len(found) == 1 else last


_HOLDERS = {part: ATTENTION if ABOVE[part] == "attention" else MLP for part in PROJECTIONS}
