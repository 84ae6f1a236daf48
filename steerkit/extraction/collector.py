"""Activations, layer by layer and batch by batch, into additive statistics.

A block's output is summed by cell (trace, label, offset) in one pass over the positions that windows touch.
Cells wait until a group of batches has run; then small matrix products spread them over the span groups of
`steerkit.data.windows`. So a batch that fails midway leaves no trace. All in float64, where the block runs;
on the CPU where that device has no float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from steerkit.data.draws import Draws
from steerkit.data.statistics import ActivationStatistics
from steerkit.data.windows import WindowStatistics, groups_of
from steerkit.errors import SteerkitError
from steerkit.extraction.drawn_sums import DrawnSums
from steerkit.extraction.raw_windows import RawWriter
from steerkit.extraction.span_cells import Read, SpanCells, cells_of
from steerkit.interfaces import Extractor, Need
from steerkit.models.devices import for_sums

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from steerkit.data.trace import Item
    from steerkit.models.language_model import LanguageModel

Key = tuple[str, int, int]  # moment (sums or squares), number of the window, layer


class Collector:
    """Turns activations into additive statistics: `begin` a group of batches, `add` each layer of each, `commit`."""

    def __init__(
        self,
        lm: LanguageModel,
        extractor: Extractor,
        labels: tuple[str, ...],
        layers: tuple[int, ...],
        needs: frozenset[Need],
        raw_folder: Path | None,
        before: ActivationStatistics | None = None,
        draws: Draws | None = None,
    ) -> None:
        import torch

        self.lm, self.extractor, self.labels, self.layers = lm, extractor, labels, layers
        self.windows = [(first, last) for first, last in extractor.windows()]
        self.moments = ("sums", "squares") if "squares" in needs else ("sums",)
        self.raw_folder = raw_folder if "raw" in needs else None
        self.rooms: dict[Key, Tensor] = {}  # kept from group to group; made anew after `statistics`
        self.sums: dict[Key, Tensor] = {}  # [2 * G, O * H]
        zeros = torch.zeros(2, len(groups_of(labels)), dtype=torch.float64)
        self.counts = [zeros.clone() for _ in self.windows]
        self.dropped: list[dict[str, int]] = [{} for _ in self.windows]
        self.tokens = torch.zeros(len(layers), lm.width, dtype=torch.float64)
        self.norms = torch.zeros(len(layers), dtype=torch.float64)
        self.traces: list[str] = []  # ids
        self.with_tokens = 0
        self.whole = True  # False while a group is only partly in the sums
        folder = self.raw_folder
        self.raw = [RawWriter(folder, window, lm.fingerprint, draws) for window in self.windows] if folder else []
        squares = "squares" in self.moments
        self.drawn = DrawnSums(draws, extractor, layers, lm.width, squares) if draws is not None else None
        if before is not None:
            self._go_on_from(before)

    def _go_on_from(self, before: ActivationStatistics) -> None:
        """Add to earlier sums, in the order in which an uninterrupted extraction adds, to the last bit."""
        for place, window in enumerate(self.windows):
            earlier = before.windows[window]
            for moment in self.moments:
                sums = getattr(earlier, moment).flatten(0, 1).flatten(2)  # [2 * G, L, O * H]
                for index, layer in enumerate(self.layers):
                    self.sums[moment, place, layer] = sums[:, index].clone()
            self.counts[place] += earlier.counts
            self.dropped[place] = dict(earlier.dropped)
            if self.raw and earlier.raw:
                self.raw[place].files += earlier.raw.files
        self.tokens += earlier.tokens
        self.norms += earlier.norms
        self.with_tokens = earlier.traces
        if self.drawn and before.drawn:
            self.drawn.go_on_from(before.drawn)

    def begin(self, group: Sequence[Sequence[Item]]) -> None:
        """Make ready for a group of batches; what of an earlier one was not committed is forgotten."""
        self.group = group
        raw = self.raw_folder is not None
        self.layouts = [cells_of(group, self.extractor, window, self.labels, raw) for window in self.windows]
        self.weights = [_own_weights(batch) for batch in group]
        self.moved: dict[tuple[int, torch.device], tuple[Tensor, list[Read]]] = {}
        self.own: dict[int, list[tuple[Tensor, Tensor, Tensor]]] = {layer: [] for layer in self.layers}
        self.singles: dict[tuple[int, int], list[Tensor]] = {}  # (window, layer) → [S, H] of each batch
        if self.drawn:
            self.drawn.begin(group)

    def add(self, number: int, layer: int, hidden: Tensor) -> None:
        """Take in one block's output [B, T, H] of the group's batch `number`."""
        import torch

        hidden = for_sums(hidden)
        flat = hidden.reshape(-1, hidden.shape[-1])
        single, wide = flat.float(), flat.double()
        own, reads = self._reads(number, flat.device)
        lengths = single.norm(dim=-1)
        self.own[layer].append((own @ wide, own @ lengths.double(), lengths))
        if self.drawn:
            self.drawn.add(number, layer, wide, lengths, own)
        moments = {"sums": wide, "squares": wide.square()} if "squares" in self.moments else {"sums": wide}
        for place, layout in enumerate(self.layouts):
            read = reads[place]
            for moment, rows in moments.items():
                self._fill((moment, place, layer), layout, read, rows)
            if read.singles is not None:
                means = torch.nn.functional.embedding_bag(read.singles, single, read.each, mode="mean")
                self.singles.setdefault((place, layer), []).append(means.cpu())

    def commit(self) -> None:
        """Add the group to the statistics.

        Raises:
            SteerkitError: an activation was not finite (layer and trace named).
        """
        import torch

        own = {layer: self._checked(layer) for layer in self.layers}
        self.whole = False
        for place, layout in enumerate(self.layouts):
            for moment in self.moments:
                for layer in self.layers:
                    self._spread((moment, place, layer), layout)
            self.counts[place] += layout.counts
            for label, count in layout.dropped.items():
                self.dropped[place][label] = self.dropped[place].get(label, 0) + count
            if layout.raw_labels:
                means = torch.stack([torch.cat(self.singles[place, layer]) for layer in self.layers], 1)
                self.raw[place].add(means, layout.raw_labels, layout.raw_places)
        for index, layer in enumerate(self.layers):
            self.tokens[index] += own[layer][0]
            self.norms[index] += own[layer][1]
        for batch in self.group:
            self.traces += [item.trace.id for item in batch]
            self.with_tokens += sum(item.trace.thinking > 0 for item in batch)
        if self.drawn:
            self.drawn.commit()
        self.whole = True

    def statistics(self) -> ActivationStatistics:
        """What was committed so far; what is committed later is added to its draws' sums."""
        self.rooms.clear()
        windows = {}
        for place, window in enumerate(self.windows):
            windows[window] = WindowStatistics(
                range=window,
                window=window,
                layers=self.layers,
                labels=self.labels,
                sums=self._stacked("sums", place),
                squares=self._stacked("squares", place) if "squares" in self.moments else None,
                counts=self.counts[place].clone(),
                dropped=dict(self.dropped[place]),
                tokens=self.tokens.clone(),
                norms=self.norms.clone(),
                traces=self.with_tokens,
                raw=self.raw[place].flush() if self.raw else None,
            )
        return ActivationStatistics(windows, drawn=self.drawn.statistics() if self.drawn else None)

    def _fill(self, key: Key, layout: SpanCells, read: Read, rows: Tensor) -> None:
        """Sum rows [B * T, H] into the batch's cells, and these by trace."""
        import torch

        if not layout.size:
            return
        width = rows.shape[1]
        cells, traces = self._room(key, layout, rows)
        if not len(read.cells):
            traces[read.traces] = 0
            return
        runs = rows.as_strided((len(rows) - layout.run + 1, layout.run * width), (width, 1))  # they overlap
        found = _bag(read.begins, runs, read.bags).reshape(-1, layout.offsets * width)
        cells[read.cells] = found
        if layout.shared is not None:
            traces[read.traces] = _bag(torch.arange(len(found), device=rows.device), found, read.by_trace)

    def _room(self, key: Key, layout: SpanCells, like: Tensor) -> tuple[Tensor, Tensor]:
        """Room for the group's cells [n, O * H], and for their sums by trace."""
        needed = layout.size + layout.reads[-1].traces.stop
        if key not in self.rooms or len(self.rooms[key]) < needed:
            self.rooms[key] = like.new_empty(needed, layout.offsets * self.lm.width)
        return self.rooms[key][: layout.size], self.rooms[key][layout.size : needed]

    def _spread(self, key: Key, layout: SpanCells) -> None:
        """Add one layer's cells to the sums of the span groups."""
        import torch

        if not layout.size:
            return
        cells, traces = self._room(key, layout, self.rooms[key])
        if key not in self.sums:
            self.sums[key] = cells.new_zeros(layout.counts.numel(), cells.shape[1])
        into = self.sums[key] = self.sums[key].to(cells.device)
        if layout.shared is not None:
            torch.addmm(into, layout.shared.to(into.device), traces, out=into)
        for rows, weights, part in layout.extra:
            into.index_add_(0, rows.to(into.device), weights.to(into.device) @ cells[part])

    def _stacked(self, moment: str, place: int) -> Tensor:
        """[2, G, L, O, H] on the CPU, a copy."""
        import torch

        first, last = window = self.windows[place]
        offsets = 1 if self.extractor.once(window) else last - first + 1
        groups = self.counts[place].shape[1]
        found = torch.zeros(2 * groups, len(self.layers), offsets * self.lm.width, dtype=torch.float64)
        for index, layer in enumerate(self.layers):
            if (moment, place, layer) in self.sums:
                found[:, index] = self.sums[moment, place, layer]
        return found.reshape(2, groups, len(self.layers), offsets, self.lm.width)

    def _reads(self, number: int, device: torch.device) -> tuple[Tensor, list[Read]]:
        """A batch's weights of its own tokens and what each window reads, where the block runs."""
        if (number, device) not in self.moved:
            reads = [layout.reads[number] for layout in self.layouts]
            self.moved[number, device] = self.weights[number].to(device), [read.to(device) for read in reads]
        return self.moved[number, device]

    def _checked(self, layer: int) -> tuple[Tensor, Tensor]:
        """[H] and [] of the group: sums over traces of the mean activation, and norm, of their own tokens."""
        import torch

        tokens, norms, lengths = zip(*self.own[layer], strict=True)
        found = torch.stack(tokens).sum(0).cpu(), torch.stack(norms).cpu()
        for number in (~found[1].isfinite()).nonzero()[:1]:  # 0 × inf is not finite either: all tokens are seen
            batch, seen = self.group[int(number)], lengths[int(number)]
            row, token = divmod(int((~seen.isfinite()).nonzero()[0]), len(seen) // len(batch))
            raise SteerkitError(
                f"{self.lm.name}: the activation of layer {layer} at token {token} of trace "
                f"{batch[row].trace.id!r} is not finite; half precision overflows so: use bf16 or float32"
            )
        return found[0], found[1].sum()


def _bag(index: Tensor, rows: Tensor, begins: Tensor) -> Tensor:
    """Sums of `rows[index]`, one for each of the consecutive bags that begin there."""
    import torch

    return torch.nn.functional.embedding_bag(index, rows, begins, mode="sum")


def _own_weights(batch: Sequence[Item]) -> Tensor:
    """[B * T] float64: each token's weight in the mean over its trace's thinking tokens."""
    import torch

    own = torch.zeros(len(batch), max(len(item.ids) for item in batch), dtype=torch.float64)
    for row, item in enumerate(batch):
        begin, count = len(item.trace.prompt_ids), item.trace.thinking
        own[row, begin : begin + count] = 1 / max(count, 1)
    return own.reshape(-1)
