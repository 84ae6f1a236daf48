"""Single spans' window means on their way to disk: a fitter may need them, and they don't fit in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steerkit.data.draws import Draws
from steerkit.data.windows import RawWindows

if TYPE_CHECKING:
    from torch import Tensor

SHARD_BYTES = 8 * 2**20


class RawWriter:
    """Gathers window means and writes a safetensors shard whenever there are `SHARD_BYTES` of them.

    Where the draws are of this window, each span's pseudo-labels and fold stand beside its own label.
    """

    def __init__(self, folder: Path, window: tuple[int, int], fingerprint: str, draws: Draws | None = None) -> None:
        self.folder, self.window, self.fingerprint = folder, window, fingerprint
        self.draws = draws if draws is not None and draws.window == window else None
        self.files: list[Path] = []
        self.means: list[Tensor] = []  # [S, L, H] float32
        self.labels: list[str] = []
        self.places: list[tuple[str, int]] = []

    def add(self, means: Tensor, labels: list[str], places: list[tuple[str, int]]) -> None:
        """Take in the means [S, L, H] of whole traces, each span's label, and its trace's id and number in it."""
        self.means.append(means)
        self.labels += labels
        self.places += places
        if sum(part.numel() * part.element_size() for part in self.means) >= SHARD_BYTES:
            self.flush()

    def flush(self) -> RawWindows:
        """Write what waits; the shards of all that was added. A shard is named after its model, traces and labels."""
        import torch

        from steerkit.store.files import digest, save_tensors

        if self.means:
            head: dict[str, Any] = {"labels": self.labels, "traces": [trace for trace, _ in self.places]}
            drawn: dict[str, Tensor] = {}
            if self.draws is not None:
                of = [(self.draws.of[trace], number) for trace, number in self.places]
                head |= {"label": self.draws.label, "draws": self.draws.names}
                drawn["drawn"] = torch.from_numpy(np.stack([own.positive[:, number] for own, number in of]))
                drawn["folds"] = torch.tensor([own.fold for own, _ in of])
            name = digest([self.fingerprint, head, *(values.tolist() for values in drawn.values())])
            path = self.folder / f"raw_{self.window[0]}..{self.window[1]}_{name}.safetensors"
            metadata = {key: json.dumps(value) for key, value in head.items()}
            save_tensors(path, {"windows": torch.cat(self.means), **drawn}, metadata)
            self.files.append(path)
            self.means, self.labels, self.places = [], [], []
        return RawWindows(tuple(self.files))
