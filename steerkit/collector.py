"""One batch's activations, layer by layer, into its additive statistics.

A block's output is summed by cell (trace, label, offset) in one pass over the positions that windows touch; a
small matrix product spreads the cells over the groups of `steerkit.statistics`. All in float64.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from steerkit.cells import Pool, plan
from steerkit.errors import SteerkitError
from steerkit.interfaces import Extractor, Need
from steerkit.statistics import ActivationStatistics, RawWindows, WindowStatistics

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.extraction import Item
    from steerkit.model import LanguageModel


class Collector:
    """Turns one batch's activations into its additive statistics."""

    def __init__(
        self, lm: LanguageModel, batch: Sequence[Item], extractor: Extractor, labels: tuple[str, ...],
        layers: tuple[int, ...], needs: frozenset[Need],
    ) -> None:  # fmt: skip
        import torch

        self.lm, self.batch, self.labels, self.layers, self.needs = lm, batch, labels, layers, needs
        self.longest = max(len(item.ids) for item in batch)
        self.pools = [
            plan(batch, extractor, window, labels, self.longest, "raw" in needs) for window in extractor.windows()
        ]
        own = torch.zeros(len(batch), self.longest, dtype=torch.float64)
        for row, item in enumerate(batch):
            begin, count = len(item.trace.prompt_ids), item.trace.thinking
            own[row, begin : begin + count] = 1 / max(count, 1)
        self.own = own.reshape(-1)  # each token's weight in the mean over its trace's thinking tokens
        self.sums = [self._room(pool) for pool in self.pools]
        self.squares = [self._room(pool) for pool in self.pools] if "squares" in needs else []
        self.raw: list[list[Tensor]] = [[] for _ in self.pools]  # [S, H]
        self.tokens: list[Tensor] = []
        self.norms: list[Tensor] = []

    def add(self, layer: int, hidden: Tensor) -> None:
        """Take in one block's output [B, T, H]."""
        import torch

        if hidden.device.type == "mps":  # has no float64
            hidden = hidden.cpu()
        own = self.own.to(hidden.device)
        flat = hidden.reshape(-1, hidden.shape[-1])
        single, wide = flat.float(), flat.double()
        lengths = single.norm(dim=-1)
        norm = own @ lengths.double()
        if not norm.isfinite():  # 0 × inf is not finite either: prompt and padding are seen too
            self._refuse(layer, lengths)
        self.norms.append(norm.cpu())
        self.tokens.append((own @ wide).cpu())
        for place, pool in enumerate(self.pools):
            self._sum(pool, wide, self.sums[place][:, self.layers.index(layer)])
            if self.squares:
                self._sum(pool, wide.square(), self.squares[place][:, self.layers.index(layer)])
            if pool.raw_index is not None:
                index = pool.raw_index.to(flat.device)
                self.raw[place].append(torch.nn.functional.embedding_bag(index, single, mode="mean").cpu())

    def _room(self, pool: Pool) -> Tensor:
        """[2 * G, L, O * H] float64 on the CPU; every layer writes its own part, so that nothing is copied again."""
        import torch

        return torch.empty(len(pool.shared), len(self.layers), pool.offsets * self.lm.width, dtype=torch.float64)

    def _sum(self, pool: Pool, flat: Tensor, into: Tensor) -> None:
        """Write one layer's sums of a pool's cells over the groups into `into` [2 * G, O * H]."""
        import torch

        def bag(index: Tensor, rows: Tensor, begins: Tensor) -> Tensor:
            return torch.nn.functional.embedding_bag(index.to(device), rows, begins.to(device), mode="sum")

        device = flat.device
        if not len(pool.bags):
            into.zero_()
            return
        cells = bag(pool.index, flat, pool.bags).reshape(-1, into.shape[1])
        found = into if device.type == "cpu" else into.new_empty(into.shape, device=device)
        torch.mm(pool.shared.to(device), bag(pool.by_trace, cells, pool.trace_bags), out=found)
        for rows, weights, part in pool.extra:
            found.index_add_(0, rows.to(device), weights.to(device) @ cells[part])
        if found is not into:
            into.copy_(found)

    def _refuse(self, layer: int, lengths: Tensor) -> None:
        place = int((~lengths.isfinite()).nonzero()[0])
        row, token = divmod(place, self.longest)
        raise SteerkitError(
            f"{self.lm.name}: the activation of layer {layer} at token {token} of trace "
            f"{self.batch[row].trace.id!r} is not finite; half precision overflows so: use bf16 or float32"
        )

    def finish(self, raw_folder: Path | None) -> ActivationStatistics:
        """The batch's statistics; raw windows go to a shard named after the model and the batch's traces."""
        import torch

        windows = {}
        for place, pool in enumerate(self.pools):
            shape = (2, -1, len(self.layers), pool.offsets, self.lm.width)
            windows[pool.range] = WindowStatistics(
                range=pool.range,
                window=pool.range,
                layers=self.layers,
                labels=self.labels,
                sums=self.sums[place].reshape(shape),
                squares=self.squares[place].reshape(shape) if self.squares else None,
                counts=pool.counts,
                dropped=pool.dropped,
                tokens=torch.stack(self.tokens),
                norms=torch.stack(self.norms),
                traces=sum(item.trace.thinking > 0 for item in self.batch),
                raw=self._save_raw(place, raw_folder) if raw_folder and "raw" in self.needs else None,
            )
        return ActivationStatistics(windows)

    def _save_raw(self, place: int, folder: Path) -> RawWindows:
        import torch
        from safetensors.torch import save_file

        from steerkit.files import atomic, digest

        pool, means = self.pools[place], self.raw[place]
        if not means:
            return RawWindows(())
        made_of = [self.lm.fingerprint, [item.trace.id for item in self.batch]]
        path = folder / f"raw_{pool.range[0]}..{pool.range[1]}_{digest(made_of)}.safetensors"
        head = {"labels": json.dumps(pool.raw_labels), "traces": json.dumps(pool.raw_traces)}
        with atomic(path) as temporary:
            save_file({"windows": torch.stack(means, 1)}, temporary, head)
        return RawWindows((path,))
