"""Where a batch's activations go: positions to cells (trace, label, offset), cells to groups of spans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from steerkit.interfaces import OWN_TOKENS, Extractor
from steerkit.statistics import groups_of

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.extraction import Item


@dataclass(frozen=True)
class Pool:
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


def plan(
    batch: Sequence[Item], extractor: Extractor, window: tuple[int, int], labels: tuple[str, ...], longest: int,
    raw: bool,
) -> Pool:  # fmt: skip
    """Where a batch's activations go for one window: cells, and each group's weight of each cell."""
    import torch

    names = groups_of(labels)
    once = extractor.once(window)
    # By label (or group): flat positions [n, O] of a trace's cell, its trace, its weights [2 * G] beyond `shared`.
    cells: dict[str, list[tuple[np.ndarray, int, np.ndarray]]] = {}
    shared = np.zeros((2 * len(names), len(batch)))
    counts = np.zeros((2, len(names)))
    dropped: dict[str, int] = {}
    singles: list[tuple[np.ndarray, str, str]] = []
    known = {span.label for item in batch for span in item.spans}
    usual = {label: np.array([_in_group(name, label) for name in names]) for label in (*known, None)}
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
        whole = np.array([name.startswith("with:") and name[5:] in present for name in names])
        belongs = {label: usual[label] | whole for label in of_label}
        if once:
            members = [
                [i for label, own in of_label.items() if belongs[label][g] for i in own] for g in range(len(names))
            ]
            positions_of = [np.unique(flat[own]) for own in members]
            sizes = np.array([len(own) for own in positions_of])
            for g, own_positions in enumerate(positions_of):
                if len(own_positions):
                    weights = _weights(np.arange(len(names)) == g, sizes)
                    cells.setdefault(names[g], []).append((own_positions[:, None], row, weights))
        else:
            sizes = sum((len(own) * belongs[label] for label, own in of_label.items()), np.zeros(len(names), int))
            shared[:, row] = _weights(usual[None] | whole, sizes)
            for label, own in of_label.items():
                weights = _weights(belongs[label], sizes) - shared[:, row]
                cells.setdefault(label, []).append((flat[own], row, weights))
        counts += (sizes > 0, sizes)
        singles += [(flat[k], label, item.trace.id) for k, label in enumerate(found)]
    keep = raw and window != OWN_TOKENS  # spans differ in length
    offsets = 1 if once else window[1] - window[0] + 1
    order = [cell for own_cells in cells.values() for cell in own_cells]
    traces = np.array([row for _, row, _ in order], dtype=np.int64)
    extra, begin = [], 0
    for own_cells in cells.values():
        weights = np.stack([w for _, _, w in own_cells], 1)
        rows = np.flatnonzero(weights.any(1))
        extra.append((torch.from_numpy(rows), torch.from_numpy(weights[rows]), slice(begin, begin + len(own_cells))))
        begin += len(own_cells)
    entries = [positions.T.reshape(-1) for positions, _, _ in order]
    return Pool(
        range=(window[0], window[1]),
        index=torch.from_numpy(np.concatenate(entries) if entries else np.zeros(0, np.int64)),
        bags=_begins(np.repeat([len(positions) for positions, _, _ in order], offsets)),
        by_trace=torch.from_numpy(np.argsort(traces, kind="stable")),
        trace_bags=_begins(np.bincount(traces, minlength=len(batch))),
        shared=torch.from_numpy(shared),
        extra=extra,
        counts=torch.from_numpy(counts),
        offsets=offsets,
        dropped=dropped,
        raw_index=torch.from_numpy(np.stack([s[0] for s in singles])) if keep and singles else None,
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


def _in_group(group: str, label: str | None) -> bool:
    """Whether a span with `label` (None: one of no group) is in a group, by its label alone."""
    if group.startswith("rest:"):
        return label != group[5:]
    return group in ("all", label)
