"""One forward over the traces: every layer, window and label at once, in memory that doesn't grow.

The decoder runs without its LM head, right-padded (causal attention never sees the padding), and stops after
the deepest requested block. Each block's output is summed by (trace, label, offset) as it passes and then
dropped; a small matrix product spreads these cells over the groups of `steerkit.statistics`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steerkit.errors import SteerkitError
from steerkit.interfaces import Extractor, Need
from steerkit.model import adapter_state
from steerkit.statistics import ActivationStatistics, RawWindows, WindowStatistics, groups_of
from steerkit.trace import Span, Trace

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.model import LanguageModel

BATCH_TOKENS = 8192


@dataclass(frozen=True)
class Item:
    """A trace with its spans, and the ids that the model to be read gets for it."""

    trace: Trace
    spans: Sequence[Span]
    ids: Sequence[int]


def batches(items: Sequence[Item], batch_tokens: int = BATCH_TOKENS) -> list[list[Item]]:
    """Whole traces sorted by length, at most `batch_tokens` padded tokens a batch (or one trace)."""
    found: list[list[Item]] = []
    for item in sorted(items, key=lambda i: (len(i.ids), i.trace.id)):
        length = len(item.ids)
        if found and (len(found[-1]) + 1) * length <= batch_tokens:
            found[-1].append(item)
        else:
            found.append([item])
    return found


def extract(
    lm: LanguageModel,
    items: Sequence[Item],
    extractor: Extractor,
    labels: Sequence[str] | None = None,
    *,
    layers: Sequence[int] | None = None,
    needs: Collection[Need] = frozenset({"means"}),
    raw_folder: Path | None = None,
    batch_tokens: int = BATCH_TOKENS,
    on_batch: Callable[[int, int, ActivationStatistics], None] | None = None,
    skip: Collection[str] = (),
) -> ActivationStatistics:
    """Sum a model's activations before and around the spans of traces.

    Args:
        labels: labels that get groups of their own, all that occur by default; spans with another label count in
            `all` and `rest:*`.
        layers: 0-based blocks to read, all by default. Nothing runs after the deepest one.
        needs: what the fitters declared.
        raw_folder: where single spans' window means stream to, when `raw` is needed.
        on_batch: called as (batches done, batches in all, statistics of this batch).
        skip: trace ids that an earlier, interrupted extraction already counted.

    Returns:
        Float64 sums on the CPU, additive over disjoint sets of traces.

    Raises:
        SteerkitError: a layer out of range, no traces, or a non-finite activation (layer and trace named).
    """
    import torch

    if labels is None:
        labels = sorted({span.label for item in items for span in item.spans})
    layers = tuple(range(lm.depth)) if layers is None else tuple(sorted(set(layers)))
    for layer in layers:
        lm.check_layer(layer)
    if "raw" in needs and raw_folder is None:
        raise SteerkitError("a fitter needs raw windows: give extract() a raw_folder to stream them to")
    plan = batches([item for item in items if item.trace.id not in set(skip)], batch_tokens)
    if not plan and not skip:
        raise SteerkitError("there is no trace to extract from")
    total: ActivationStatistics | None = None
    with torch.inference_mode(), adapter_state(lm):
        for number, batch in enumerate(plan):
            collector = _Collector(lm, batch, extractor, tuple(labels), layers, frozenset(needs))
            _forward(lm, batch, layers, collector.add)
            part = collector.finish(raw_folder)
            total = part if total is None else total + part
            if on_batch:
                on_batch(number + 1, len(plan), part)
    return ActivationStatistics(total.windows if total else {}, made_by(lm))


def made_by(lm: LanguageModel) -> dict[str, Any]:
    """Provenance of a model's statistics."""
    return {"model": lm.name, "fingerprint": lm.fingerprint, "depth": lm.depth}


class _Stop(Exception):
    """The deepest requested block has run."""


def _forward(
    lm: LanguageModel, batch: Sequence[Item], layers: Sequence[int], see: Callable[[int, Tensor], None]
) -> None:
    """Run the decoder on a right-padded batch; `see(layer, hidden [B, T, H])` for each layer; then stop."""
    import torch

    longest = max(len(item.ids) for item in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    for row, item in enumerate(batch):
        ids[row, : len(item.ids)] = torch.tensor(item.ids)

    def hook(layer: int) -> Callable[..., None]:
        def read(module: Any, args: Any, output: Any) -> None:
            see(layer, output[0] if isinstance(output, tuple) else output)
            if layer == layers[-1]:
                raise _Stop

        return read

    handles = [lm.blocks[layer].register_forward_hook(hook(layer)) for layer in layers]
    try:
        lm.decoder(input_ids=ids.to(lm.device), use_cache=False)
    except _Stop:
        pass
    finally:
        for handle in handles:
            handle.remove()


@dataclass
class _Pool:
    """One window range of a batch: which flat positions go to which cell, which cells to which group.

    Most groups take all of a trace's cells or none of them, so the cells are first summed by trace; only what
    a label's own groups take more or less of its cells than of others' is added for each label.
    """

    range: tuple[int, int]
    index: Tensor  # flat [B * T] positions, cell by cell and offset by offset
    bags: Tensor  # first entry of each cell's offset in `index`
    by_trace: Tensor  # cells, trace by trace
    trace_bags: Tensor  # first entry of each trace in `by_trace`
    shared: Tensor  # [2 * G, traces] float64 weights
    extra: list[tuple[Tensor, Tensor, slice]]  # rows of [2 * G], [rows, n] float64 weights, n cells
    counts: Tensor  # [2, G]
    offsets: int
    dropped: dict[str, int]
    raw_index: Tensor | None  # [S, O] flat positions of single spans
    raw_labels: list[str]
    raw_traces: list[str]
    sums: list[Tensor] = field(default_factory=list)  # a layer each: [2, G, O, H]
    squares: list[Tensor] = field(default_factory=list)
    raw: list[Tensor] = field(default_factory=list)


class _Collector:
    """Turns one batch's activations into its additive statistics."""

    def __init__(
        self, lm: LanguageModel, batch: Sequence[Item], extractor: Extractor, labels: tuple[str, ...],
        layers: tuple[int, ...], needs: frozenset[Need],
    ) -> None:  # fmt: skip
        import torch

        self.lm, self.batch, self.labels, self.layers, self.needs = lm, batch, labels, layers, needs
        self.longest = max(len(item.ids) for item in batch)
        self.pools = [
            _plan(batch, extractor, window, labels, self.longest, "raw" in needs) for window in extractor.windows()
        ]
        own = torch.zeros(len(batch), self.longest, dtype=torch.float64)
        for row, item in enumerate(batch):
            begin, count = len(item.trace.prompt_ids), item.trace.thinking
            own[row, begin : begin + count] = 1 / max(count, 1)
        self.own = own.reshape(-1)  # each token's weight in the mean over its trace's thinking tokens
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
        for pool in self.pools:
            pool.sums.append(self._sum(pool, wide))
            if "squares" in self.needs:
                pool.squares.append(self._sum(pool, wide.square()))
            if pool.raw_index is not None:
                index = pool.raw_index.to(flat.device)
                pool.raw.append(torch.nn.functional.embedding_bag(index, single, mode="mean").cpu())

    def _sum(self, pool: _Pool, flat: Tensor) -> Tensor:
        import torch

        def bag(index: Tensor, rows: Tensor, begins: Tensor) -> Tensor:
            return torch.nn.functional.embedding_bag(index.to(device), rows, begins.to(device), mode="sum")

        device, width = flat.device, flat.shape[-1]
        if not len(pool.bags):
            return torch.zeros(2, len(pool.shared) // 2, pool.offsets, width, dtype=torch.float64)
        cells = bag(pool.index, flat, pool.bags).reshape(-1, pool.offsets * width)
        summed = pool.shared.to(device) @ bag(pool.by_trace, cells, pool.trace_bags)
        for rows, weights, part in pool.extra:
            summed[rows.to(device)] += weights.to(device) @ cells[part]
        return summed.reshape(2, -1, pool.offsets, width).cpu()

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
        for pool in self.pools:
            windows[pool.range] = WindowStatistics(
                range=pool.range,
                window=pool.range,
                layers=self.layers,
                labels=self.labels,
                sums=torch.stack(pool.sums, 2),
                squares=torch.stack(pool.squares, 2) if pool.squares else None,
                counts=pool.counts,
                dropped=pool.dropped,
                tokens=torch.stack(self.tokens),
                norms=torch.stack(self.norms),
                traces=sum(len(item.ids) > len(item.trace.prompt_ids) for item in self.batch),
                raw=self._save_raw(pool, raw_folder) if raw_folder and "raw" in self.needs else None,
            )
        return ActivationStatistics(windows)

    def _save_raw(self, pool: _Pool, folder: Path) -> RawWindows:
        import torch
        from safetensors.torch import save_file

        from steerkit.files import atomic, digest

        if not pool.raw:
            return RawWindows(())
        made_of = [self.lm.fingerprint, [item.trace.id for item in self.batch]]
        path = folder / f"raw_{pool.range[0]}..{pool.range[1]}_{digest(made_of)}.safetensors"
        head = {"labels": json.dumps(pool.raw_labels), "traces": json.dumps(pool.raw_traces)}
        with atomic(path) as temporary:
            save_file({"windows": torch.stack(pool.raw, 1)}, temporary, head)
        return RawWindows((path,))


def _plan(
    batch: Sequence[Item], extractor: Extractor, window: tuple[int, int], labels: tuple[str, ...], longest: int,
    raw: bool,
) -> _Pool:  # fmt: skip
    """Where a batch's activations go for one window: cells, and each group's weight of each cell."""
    import torch

    names = groups_of(labels)
    once = extractor.once()
    # By label (or group): flat positions [n, O] of a trace's cell, its trace, its weights [2 * G] beyond `shared`.
    cells: dict[str, list[tuple[np.ndarray, int, np.ndarray]]] = {}
    shared = np.zeros((2 * len(names), len(batch)))
    counts = np.zeros((2, len(names)))
    dropped: dict[str, int] = {}
    singles: list[tuple[np.ndarray, str, str]] = []
    for row, item in enumerate(batch):
        positions = extractor.positions(item.trace, item.spans, window)
        fits = [len(positions) > 0 and positions[i, 0] >= 0 for i in range(len(item.spans))]
        for span, inside in zip(item.spans, fits, strict=True):
            if not inside:
                dropped[span.label] = dropped.get(span.label, 0) + 1
        eligible = [i for i, inside in enumerate(fits) if inside]
        present = {span.label for span in item.spans}
        found = [item.spans[i].label for i in eligible]
        flat = positions[eligible] + row * longest if eligible else positions[:0]
        of_label: dict[str, list[int]] = {}
        for i, label in enumerate(found):
            of_label.setdefault(label, []).append(i)
        belongs = {label: [_in_group(name, label, present) for name in names] for label in of_label}
        members = [[i for label, own in of_label.items() if belongs[label][g] for i in own] for g in range(len(names))]
        sizes = np.array([len(np.unique(flat[m])) if once else len(m) for m in members])
        counts += (sizes > 0, sizes)
        if once:
            for g, own in enumerate(members):
                if own:
                    weights = _weights(np.arange(len(names)) == g, sizes)
                    cells.setdefault(names[g], []).append((np.unique(flat[own])[:, None], row, weights))
        else:
            shared[:, row] = _weights(np.array([_in_group(name, None, present) for name in names]), sizes)
            for label, own in of_label.items():
                weights = _weights(np.array(belongs[label]), sizes) - shared[:, row]
                cells.setdefault(label, []).append((flat[own], row, weights))
        singles += [(flat[k], label, item.trace.id) for k, label in enumerate(found)]
    offsets = 1 if once else window[1] - window[0] + 1
    order = [cell for own_cells in cells.values() for cell in own_cells]
    traces = np.array([row for _, row, _ in order], dtype=np.int64)
    extra, begin = [], 0
    for own_cells in cells.values():
        weights = np.stack([w for _, _, w in own_cells], 1)
        rows = np.flatnonzero(weights.any(1))
        extra.append((torch.from_numpy(rows), torch.from_numpy(weights[rows]), slice(begin, begin + len(own_cells))))
        begin += len(own_cells)
    entries = [part for positions, _, _ in order for part in positions.T]
    return _Pool(
        range=(window[0], window[1]),
        index=torch.from_numpy(np.concatenate(entries) if entries else np.zeros(0, np.int64)),
        bags=_begins([len(part) for part in entries]),
        by_trace=torch.from_numpy(np.argsort(traces, kind="stable")),
        trace_bags=_begins(np.bincount(traces, minlength=len(batch))),
        shared=torch.from_numpy(shared),
        extra=extra,
        counts=torch.from_numpy(counts),
        offsets=offsets,
        dropped=dropped,
        raw_index=torch.from_numpy(np.stack([s[0] for s in singles])) if raw and singles else None,
        raw_labels=[s[1] for s in singles],
        raw_traces=[s[2] for s in singles],
    )


def _begins(sizes: Sequence[int] | np.ndarray) -> Tensor:
    """Where each of consecutive bags begins."""
    import torch

    ends = np.cumsum(np.asarray(sizes, dtype=np.int64))
    return torch.from_numpy(ends - np.asarray(sizes, dtype=np.int64))


def _weights(inside: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """[2 * G] weights of a cell in the groups that it is in: by trace 1/n (n: their `sizes`), by span 1."""
    taken = inside & (sizes > 0)
    return np.concatenate([taken / np.maximum(sizes, 1), taken])


def _in_group(group: str, label: str | None, present: Collection[str]) -> bool:
    """Whether a span with `label` (None: one of no group), in a trace with the labels `present`, is in a group."""
    if group == "all":
        return True
    if group.startswith("rest:"):
        return label != group[5:]
    if group.startswith("with:"):
        return group[5:] in present
    return label == group
