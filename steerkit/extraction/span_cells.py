"""Where a group of batches' activations go: positions to cells (trace and label), cells to groups of spans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from steerkit.data.windows import groups_of
from steerkit.interfaces import Extractor

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from steerkit.data.trace import Item


@dataclass(frozen=True)
class Read:
    """Which of a batch's flat [B * T] positions go to which cells.

    A cell is `SpanCells.offsets` sums [H]. It takes whole runs of as many positions when `SpanCells.run` says so; else
    each offset takes its positions one by one.
    """

    begins: Tensor  # first position of each run, cell by cell (or each position, offset by offset)
    bags: Tensor  # first entry in `begins` of each cell (or each cell's offset)
    cells: Tensor  # the cells that are filled, trace by trace; numbers in the group
    by_trace: Tensor  # first entry in `cells` of each trace
    traces: slice  # the batch's traces, in the group
    singles: Tensor | None  # positions of single spans' windows, span by span
    each: Tensor | None  # first entry in `singles` of each span

    def to(self, device: torch.device) -> Read:
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: v.to(device) for name, v in moved.items() if hasattr(v, "to")})


@dataclass(frozen=True)
class SpanCells:
    """One window range of a group of batches: what is read, and each span group's weight of each cell.

    Most span groups take all of a trace's cells or none of them, so the cells are also summed by trace; only
    what a label's own groups take more or less of its cells than of others' is added for each label.
    """

    range: tuple[int, int]
    offsets: int
    run: int  # consecutive positions that an entry of `Read.begins` stands for
    reads: list[Read]
    size: int  # number of cells
    shared: Tensor | None  # [2 * G, traces] float64 weights; None: every cell has weights of its own only
    extra: list[tuple[Tensor, Tensor, slice]]  # rows of [2 * G], [rows, n] float64 weights, n cells
    counts: Tensor  # [2, G]
    dropped: dict[str, int]
    raw_labels: list[str]  # of single spans' windows
    raw_places: list[tuple[str, int]]  # their traces, and which of these' spans they are


@dataclass(frozen=True)
class Entries:
    """What goes to which cell: N windows (or, where each counts once, positions), by trace, then by key.

    A cell's key is its label's code or, where positions count once, its span group's number.
    """

    positions: np.ndarray  # [N, O]
    rows: np.ndarray  # [N] traces
    keys: np.ndarray  # [N]
    sizes: np.ndarray  # [traces, G] what each span group counts in a trace
    shared: np.ndarray | None  # [traces, 2 * G] weights of all of a trace's cells
    own: np.ndarray  # [traces, keys, 2 * G] what a cell's weights have beyond `shared`


def cells_of(
    group: Sequence[Sequence[Item]], extractor: Extractor, window: tuple[int, int], labels: tuple[str, ...], raw: bool
) -> SpanCells:
    """Where the activations of a group of batches go for one window."""
    import torch

    items = [item for batch in group for item in batch]
    found = [extractor.positions(item.trace, item.spans, window) for item in items]
    spans = [span.label for item in items for span in item.spans]
    names = list(dict.fromkeys([*labels, *spans]))
    places = {name: code for code, name in enumerate(names)}
    inside = np.concatenate([own[:, 0] >= 0 if own.size else np.zeros(len(own), bool) for own in found])
    codes = np.array([places[label] for label in spans], np.int64)
    rows = np.repeat(np.arange(len(items)), [len(item.spans) for item in items])
    dropped = np.bincount(codes[~inside], minlength=len(names))
    numbers = np.concatenate([np.arange(len(item.spans)) for item in items])[inside]
    codes, rows = codes[inside], rows[inside]
    eligible = [own[own[:, 0] >= 0] for own in found if own.size]
    once = extractor.once(window)
    entries = (_once if once else _each)(items, eligible, rows, codes, names, labels)
    offsets = 1 if once else window[1] - window[0] + 1
    run = offsets if (np.diff(entries.positions, axis=1) == 1).all() else 1
    keep = raw and len(rows) > 0
    # cells are numbered by key, then by trace
    order, cells = np.unique(entries.keys * len(items) + entries.rows, return_inverse=True)
    reads, first = [], 0
    for batch in group:
        last, longest = first + len(batch), max(len(item.ids) for item in batch)
        part = slice(*np.searchsorted(entries.rows, [first, last]))
        shift = (entries.rows[part] - first) * longest
        begins = entries.positions[part, ::run] + shift[:, None]
        new = np.flatnonzero(np.diff(cells[part], prepend=-1))  # where another cell begins
        counts = np.diff(new, append=len(begins))
        if run < offsets:  # a cell's positions offset by offset
            begins = np.concatenate([own.T.reshape(-1) for own in np.split(begins, new[1:])])
            counts = np.repeat(counts, offsets)
        singles = each = None
        if keep:
            singles, each = _singles(found[first:last], longest)
        reads.append(
            Read(
                begins=_longs(begins.reshape(-1)),
                bags=_longs(np.cumsum(counts) - counts),
                cells=_longs(cells[part][new]),
                by_trace=_longs(np.searchsorted(entries.rows[part][new], np.arange(first, last))),
                traces=slice(first, last),
                singles=singles,
                each=each,
            )
        )
        first = last
    return SpanCells(
        range=(window[0], window[1]),
        offsets=offsets,
        run=run,
        reads=reads,
        size=len(order),
        shared=None if entries.shared is None else torch.from_numpy(entries.shared.T.copy()),
        extra=_extra(entries.own, *np.divmod(order, len(items))),
        counts=torch.from_numpy(np.stack([(entries.sizes > 0).sum(0), entries.sizes.sum(0)]).astype(np.float64)),
        dropped={names[code]: int(count) for code, count in enumerate(dropped) if count},
        raw_labels=[names[code] for code in codes] if keep else [],
        raw_places=[(items[row].trace.id, int(span)) for row, span in zip(rows, numbers, strict=True)] if keep else [],
    )


def _singles(found: Sequence[np.ndarray], longest: int) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Flat positions of a batch's single windows, one after another, and where each begins; none without windows.

    Args:
        found: [S, O] positions of each trace's windows; a row of -1 for none, and repeated ones count once.
    """
    windows = [np.unique(own) + row * longest for row, places in enumerate(found) for own in places if own[0] >= 0]
    if not windows:
        return None, None
    sizes = np.array([len(own) for own in windows])
    return _longs(np.concatenate(windows)), _longs(np.cumsum(sizes) - sizes)


def _each(
    items: Sequence[Item],
    eligible: list[np.ndarray],
    rows: np.ndarray,
    codes: np.ndarray,
    names: list[str],
    labels: tuple[str, ...],
) -> Entries:
    """A cell for each label of a trace; every span counts."""
    order = np.lexsort((codes, rows))
    positions = np.concatenate(eligible)[order] if len(order) else np.zeros((0, 1), np.int64)
    numbers = np.bincount(rows * len(names) + codes, minlength=len(items) * len(names)).reshape(len(items), -1)
    belongs, usual = _belongs(items, names, labels)
    sizes = (belongs * numbers[:, :, None]).sum(1)
    shared = _weights(usual, sizes)
    own = _weights(belongs, sizes[:, None]) - shared[:, None]
    return Entries(positions, rows[order], codes[order], sizes, shared, own)


def _once(
    items: Sequence[Item],
    eligible: list[np.ndarray],
    rows: np.ndarray,
    codes: np.ndarray,
    names: list[str],
    labels: tuple[str, ...],
) -> Entries:
    """A cell for each span group of a trace, which takes every position that its spans share once."""
    belongs, usual = _belongs(items, names, labels)
    groups = usual.shape[1]
    sizes = np.zeros((len(items), groups), np.int64)
    taken: list[np.ndarray] = []
    for row, positions in zip(np.unique(rows), (own for own in eligible if len(own)), strict=True):
        members = belongs[row, codes[rows == row]]  # [n, G]
        for g in range(groups):
            taken.append(np.unique(positions[members[:, g]]))
            sizes[row, g] = len(taken[-1])
    keys = np.tile(np.arange(groups), len(items))
    return Entries(
        positions=np.concatenate([np.zeros(0, np.int64), *taken])[:, None],
        rows=np.repeat(np.arange(len(items)), sizes.sum(1)),
        keys=np.repeat(keys, sizes.reshape(-1)),
        sizes=sizes,
        shared=None,
        own=_weights(np.eye(groups, dtype=bool), sizes[:, None]),
    )


def _belongs(items: Sequence[Item], names: list[str], labels: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """[traces, labels, G] whether a label's spans in a trace are in a group, and [traces, G] whether all other are."""
    groups = groups_of(labels)
    with_label = np.zeros((len(items), len(groups)), bool)
    for row, item in enumerate(items):
        present = {f"with:{span.label}" for span in item.spans}
        with_label[row] = [name in present for name in groups]
    by_label = np.array([[_in_group(group, name) for group in groups] for name in (*names, None)])
    return by_label[:-1] | with_label[:, None], by_label[-1] | with_label


def _in_group(group: str, label: str | None) -> bool:
    """Whether a span with `label` (None: one of no group) is in a group, by its label alone."""
    if group.startswith("rest:"):
        return label != group[5:]
    return group in ("all", label)


def _weights(inside: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """[..., 2 * G] weights of a cell in the groups that it is in: by trace 1/n (n: their `sizes`), by span 1."""
    taken = inside & (sizes > 0)
    return np.concatenate([taken / np.maximum(sizes, 1), taken], -1)


def _extra(own: np.ndarray, keys: np.ndarray, traces: np.ndarray) -> list[tuple[Tensor, Tensor, slice]]:
    """For each key, of cells in order of their keys: the weights that are not all zero."""
    import torch

    found = []
    for key in np.unique(keys):
        begin, end = np.searchsorted(keys, [key, key + 1])
        weights = own[traces[begin:end], key].T
        rows = np.flatnonzero(weights.any(1))
        if len(rows):
            found.append((torch.from_numpy(rows), torch.from_numpy(weights[rows]), slice(int(begin), int(end))))
    return found


def _longs(values: np.ndarray | list[int]) -> Tensor:
    import torch

    return torch.from_numpy(np.asarray(values, dtype=np.int64))
