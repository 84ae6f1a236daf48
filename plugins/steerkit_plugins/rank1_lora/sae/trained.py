"""A trained SAE: latents of scalars, what a latent adds to each of them, and its file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from steerkit.errors import SteerkitError
from steerkit.store.strict_json import loads
from steerkit_plugins.rank1_lora.sae.options import SAEOptions

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from steerkit_plugins.rank1_lora.sae.batch_topk import On, Weights

Inference = Literal["threshold", "batch_topk"]
"""Which latents are on: those above the fixed threshold, or the k · B largest of a batch, one budget for all rows."""

HEAD = "sae"
BLOCK = 1024
"""Rows that are encoded at once."""


@dataclass(frozen=True, eq=False)
class TrainedSAE:
    """An SAE on the raw scalars s [N, U] of an adapter; F latents.

    It reads x = (c s - shift) / spread, c = γ‖B‖ or 1 as `options.scale` says, and rebuilds it.

    Attributes:
        units: names of the columns.
        norms: [U] γ‖B‖ of the adapter that it was trained on.
        shift, spread: [U].
        weights: of encoder and decoder.
        threshold: score above which a latent is on.
        told: how training went: rows, steps, dead (at its end), batch_fvu.
        meta: provenance: model, traces.
    """

    options: SAEOptions
    units: tuple[str, ...]
    norms: np.ndarray
    shift: np.ndarray
    spread: np.ndarray
    weights: Weights
    threshold: float
    told: Mapping[str, Any] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def latents(self) -> int:
        """F."""
        return int(self.weights.decoder.shape[0])

    @property
    def factor(self) -> np.ndarray:
        """[U] c: what raw scalars are multiplied by."""
        return self.norms if self.options.scale == "contribution" else np.ones_like(self.norms)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.weights.decoder.device

    def to(self, device: torch.device) -> TrainedSAE:
        """The same on a device."""
        return replace(self, weights=self.weights.to(device))

    def prepared(self, rows: np.ndarray) -> Tensor:
        """[N, U] raw scalars → [N, U] float32, what the encoder reads."""
        import torch

        self._check_width(rows)
        return torch.from_numpy(((rows * self.factor - self.shift) / self.spread).astype(np.float32, copy=False))

    def on(self, x: Tensor, how: Inference = "threshold") -> On:
        """The entries of [N, F] that are on, for prepared rows; with `batch_topk` these rows are the batch."""
        from steerkit_plugins.rank1_lora.sae.batch_topk import above, encode, top_of_batch

        z = encode(self.weights, x.to(self.device), self.options)
        if how == "batch_topk":
            return top_of_batch(self.weights, z, self.options.k)
        return above(self.weights, z, self.threshold)

    def activations(self, rows: np.ndarray, latents: Sequence[int] | None = None) -> np.ndarray:
        """[N, F] float32 z of the latents that are on, 0 for the others, for raw scalars [N, U]; by the threshold.

        Args:
            latents: the columns that are wanted; all when left out.
        """
        import torch

        from steerkit_plugins.rank1_lora.sae.batch_topk import encode, scores

        x, found = self.prepared(rows), []
        wanted = slice(None) if latents is None else torch.tensor(list(latents))
        for part in x.split(BLOCK):
            z = encode(self.weights, part.to(self.device), self.options)
            found.append((z * (scores(self.weights, z) > self.threshold))[:, wanted].cpu().numpy())
        width = self.latents if latents is None else len(latents)
        return np.concatenate(found) if found else np.zeros((0, width), np.float32)

    def decoder_row(self, latent: int) -> np.ndarray:
        """[U] float64 change of the raw scalars that one unit of a latent's z stands for.

        Σ_u row_u γ_u B_u is what the latent adds to the model where it is 1.

        Raises:
            SteerkitError: there is no such latent.
        """
        if not 0 <= latent < self.latents:
            raise SteerkitError(f"latent {latent}: the SAE has {self.latents}, numbered from 0")
        row = self.weights.decoder[latent].double().cpu().numpy() * self.spread
        factor = self.factor.astype(np.float64)
        return np.divide(row, factor, out=np.zeros_like(row), where=factor != 0)

    def check(self, units: Sequence[Any], norms: np.ndarray) -> None:
        """Raises: SteerkitError when it was trained on other scalars than these: other units, or another adapter's."""
        names = tuple(map(str, units))
        if names != self.units:
            differ = [name for name in (*names, *self.units) if (name in names) != (name in self.units)]
            raise SteerkitError(
                f"the SAE reads {len(self.units)} units and the adapter has {len(names)}; "
                f"{'in another order' if not differ else 'only one has ' + ', '.join(differ[:4])}"
            )
        if not np.allclose(self.norms, norms, rtol=1e-3):
            place = int(np.argmax(np.abs(self.norms - norms)))
            raise SteerkitError(
                f"the SAE was trained on another adapter: unit {names[place]} adds {self.norms[place]:.4g} where it is "
                f"1 there, and {norms[place]:.4g} here"
            )

    def _check_width(self, rows: np.ndarray) -> None:
        if rows.ndim != 2 or rows.shape[1] != len(self.units):
            raise SteerkitError(f"the SAE reads rows [N, {len(self.units)}], and these are {list(rows.shape)}")

    def save(self, path: Path | str) -> None:
        """One safetensors file with its options in the header, whole or not at all."""
        import torch

        from steerkit.store.files import save_tensors

        own = {name: torch.from_numpy(np.ascontiguousarray(getattr(self, name))) for name in _ARRAYS}
        head = {
            "options": self.options.model_dump(),
            "units": self.units,
            "threshold": self.threshold,
            "told": dict(self.told),
            "meta": dict(self.meta),
        }
        tensors = {name: value.contiguous() for name, value in self.weights.tensors().items()}
        save_tensors(Path(path), {**tensors, **own}, {HEAD: json.dumps(head)})

    @classmethod
    def load(cls, path: Path | str, units: Sequence[Any] | None = None, norms: np.ndarray | None = None) -> TrainedSAE:
        """Read what `save` wrote.

        Args:
            units, norms: those of the adapter that it is to be used with; not checked when left out.

        Raises:
            SteerkitError: the file is missing, not such a file, or of another adapter.
        """
        from safetensors import SafetensorError, safe_open

        from steerkit_plugins.rank1_lora.sae.batch_topk import Weights

        try:
            with safe_open(path, "pt") as file:
                head = loads(file.metadata()[HEAD])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            arrays = {name: tensors.pop(name).numpy() for name in _ARRAYS}
            found = cls(
                options=SAEOptions(**head["options"]),
                units=tuple(head["units"]),
                weights=Weights(**tensors),
                threshold=float(head["threshold"]),
                told=head["told"],
                meta=head["meta"],
                **arrays,
            )
            _check_shapes(found)
        except (OSError, SafetensorError, LookupError, TypeError, AttributeError, ValueError) as error:
            raise SteerkitError(f"{path}: not a file of a trained SAE ({error})") from error
        if units is not None and norms is not None:
            try:
                found.check(units, norms)
            except SteerkitError as error:
                raise SteerkitError(f"{path}: {error}; give the file of an SAE of this adapter") from error
        return found


_ARRAYS = ("norms", "shift", "spread")


def _check_shapes(sae: TrainedSAE) -> None:
    """Raises: ValueError where tensors don't belong together."""
    units = len(sae.units)
    latents = sae.options.latents(units)
    wanted = {"encoder": (units, latents), "encoder_bias": (latents,), "decoder": (latents, units)}
    wanted["decoder_bias"] = (units,)
    for name, value in sae.weights.tensors().items():
        if tuple(value.shape) != wanted[name]:
            raise ValueError(f"{name} is {list(value.shape)}, not {list(wanted[name])}")
    for name in _ARRAYS:
        if getattr(sae, name).shape != (units,):
            raise ValueError(f"{name} is {list(getattr(sae, name).shape)}, not [{units}]")
