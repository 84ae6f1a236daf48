"""Single spans' window means on their way to disk: a fitter may need them, and they don't fit in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from steerkit.data.windows import RawWindows

if TYPE_CHECKING:
    from torch import Tensor

SHARD_BYTES = 8 * 2**20


class RawWriter:
    """Gathers window means and writes a safetensors shard whenever there are `SHARD_BYTES` of them."""

    def __init__(self, folder: Path, window: tuple[int, int], fingerprint: str) -> None:
        self.folder, self.window, self.fingerprint = folder, window, fingerprint
        self.files: list[Path] = []
        self.means: list[Tensor] = []  # [S, L, H] float32
        self.labels: list[str] = []
        self.traces: list[str] = []

    def add(self, means: Tensor, labels: list[str], traces: list[str]) -> None:
        """Take in the means [S, L, H] of whole traces, each span's label and trace id."""
        self.means.append(means)
        self.labels += labels
        self.traces += traces
        if sum(part.numel() * part.element_size() for part in self.means) >= SHARD_BYTES:
            self.flush()

    def flush(self) -> RawWindows:
        """Write what waits; the shards of all that was added. A shard is named after its model and traces."""
        import torch

        from steerkit.store.files import digest, save_tensors

        if self.means:
            name = digest([self.fingerprint, list(dict.fromkeys(self.traces))])
            path = self.folder / f"raw_{self.window[0]}..{self.window[1]}_{name}.safetensors"
            head = {"labels": json.dumps(self.labels), "traces": json.dumps(self.traces)}
            save_tensors(path, {"windows": torch.cat(self.means)}, head)
            self.files.append(path)
            self.means, self.labels, self.traces = [], [], []
        return RawWindows(tuple(self.files))
