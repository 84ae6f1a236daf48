"""Where a group of batches' activations go: positions to cells (trace and label), cells to groups of spans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from steerkit.interfaces import OWN_TOKENS, Extractor
from steerkit.statistics import groups_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from steerkit.extraction import Item


@dataclass(frozen=True)
class Read:
    """Which of a batch's flat [B * T] positions go to which cells.

    A cell is `Pool.offsets` sums [H]. It takes whole runs of as many positions when `Pool.run` says so; else each
    offset takes its positions one by one.
    """

    begins: Tensor  # first position of each run, cell by cell (or each position, offset by offset)
    bags: Tensor  # first entry in `begins` of each cell (or each cell's offset)
    cells: Tensor  # the cells that are filled, trace by trace; numbers in the group
    by_trace: Tensor  # first entry in `cells` of each trace
    traces: slice  # the batch's traces, in the group
    singles: Tensor | None  # [S, O] positions of single spans

    def to(self, device: torch.device) -> Read:
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: v.to(device) for name, v in moved.items() if hasattr(v, "to")})


@dataclass(frozen=True)
class Pool:
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
    raw_labels: list[str]
    raw_traces: list[str]


@dataclass(frozen=True)
class Cells:
    """The cells of a group's traces, by key: a label's code or, where positions count once, a span group's number."""

    of: list[dict[int, np.ndarray]]  # for each trace: key → positions [n, O]
    sizes: np.ndarray  # [traces, G] what each group counts in a trace
    shared: np.ndarray | None  # [traces, 2 * G]
    own: np.ndarray  # [traces, keys, 2 * G] weights beyond `shared`


def plan(
    group: Sequence[Sequence[Item]], extractor: Extractor, window: tuple[int, int], labels: tuple[str, ...], raw: bool
) -> Pool:
    """Where the activations of a group of batches go for one window."""
    import torch

    items = [item for batch in group for item in batch]
    names = list(dict.fromkeys([*labels, *(span.label for item in items for span in item.spans)]))
    codes = {name: code for code, name in enumerate(names)}
    eligible: list[np.ndarray] = []  # of each trace's eligible spans: positions [n, O]
    found: list[np.ndarray] = []  # and label codes [n]
    dropped = np.zeros(len(names), np.int64)
    for item in items:
        positions = extractor.positions(item.trace, item.spans, window)
        own = np.fromiter((codes[span.label] for span in item.spans), np.int64, len(item.spans))
        inside = positions[:, 0] >= 0 if positions.size else np.zeros(len(own), bool)
        dropped += np.bincount(own[~inside], minlength=len(names))
        eligible.append(positions[inside] if len(positions) else positions)
        found.append(own[inside])
    once = extractor.once(window)
    cells = (_once if once else _each)(items, eligible, found, names, labels)
    offsets = 1 if once else window[1] - window[0] + 1
    run = offsets if all((np.diff(own, axis=1) == 1).all() for own in eligible) else 1
    order = sorted((key, row) for row, own in enumerate(cells.of) for key in own)
    numbers = {place: number for number, place in enumerate(order)}
    keep = raw and window != OWN_TOKENS  # spans differ in length
    reads, first = [], 0
    for batch in group:
        rows = range(first, first + len(batch))
        longest = max(len(item.ids) for item in batch)
        begins, counts, own_cells, by_trace = [], [], [], []
        for row in rows:
            by_trace.append(len(own_cells))
            for key, positions in cells.of[row].items():
                taken = positions[:, 0] if run > 1 else positions.T.reshape(-1)
                begins.append(taken + (row - first) * longest)
                counts += [len(positions)] * (offsets // run)
                own_cells.append(numbers[key, row])
        singles = [eligible[row] + (row - first) * longest for row in rows if len(eligible[row])]
        reads.append(
            Read(
                begins=_longs(np.concatenate(begins) if begins else []),
                bags=_longs(np.cumsum(counts) - counts),
                cells=_longs(own_cells),
                by_trace=_longs(by_trace),
                traces=slice(first, first + len(batch)),
                singles=_longs(np.concatenate(singles)) if keep and singles else None,
            )
        )
        first += len(batch)
    return Pool(
        range=(window[0], window[1]),
        offsets=offsets,
        run=run,
        reads=reads,
        size=len(order),
        shared=None if cells.shared is None else torch.from_numpy(cells.shared.T.copy()),
        extra=_extra(cells.own, order),
        counts=torch.from_numpy(np.stack([(cells.sizes > 0).sum(0), cells.sizes.sum(0)]).astype(np.float64)),
        dropped={names[code]: int(count) for code, count in enumerate(dropped) if count},
        raw_labels=[names[code] for own in found for code in own] if keep else [],
        raw_traces=[item.trace.id for item, own in zip(items, found, strict=True) for _ in own] if keep else [],
    )


def _each(
    items: Sequence[Item], eligible: list[np.ndarray], found: list[np.ndarray], names: list[str],
    labels: tuple[str, ...],
) -> Cells:  # fmt: skip
    """A cell for each label of a trace; every span counts."""
    of = [
        {int(code): positions[own == code] for code in np.unique(own)}
        for positions, own in zip(eligible, found, strict=True)
    ]
    numbers = np.stack([np.bincount(own, minlength=len(names)) for own in found])
    belongs, usual = _belongs(items, names, labels)
    sizes = (belongs * numbers[:, :, None]).sum(1)
    shared = _weights(usual, sizes)
    return Cells(of, sizes, shared, _weights(belongs, sizes[:, None]) - shared[:, None])


def _once(
    items: Sequence[Item], eligible: list[np.ndarray], found: list[np.ndarray], names: list[str],
    labels: tuple[str, ...],
) -> Cells:  # fmt: skip
    """A cell for each span group of a trace, which takes every position that its spans share once."""
    belongs, usual = _belongs(items, names, labels)
    of: list[dict[int, np.ndarray]] = []
    for row, (positions, own) in enumerate(zip(eligible, found, strict=True)):
        members = belongs[row, own]  # [n, G]
        of.append({g: np.unique(positions[inside])[:, None] for g, inside in enumerate(members.T) if inside.any()})
    groups = usual.shape[1]
    sizes = np.array([[len(own.get(g, ())) for g in range(groups)] for own in of])
    return Cells(of, sizes, None, _weights(np.eye(groups, dtype=bool), sizes[:, None]))


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


def _extra(own: np.ndarray, order: list[tuple[int, int]]) -> list[tuple[Tensor, Tensor, slice]]:
    """For each key, of the cells in `order` (by key, then trace): the weights that are not all zero."""
    import torch

    keys, traces = np.array(order, dtype=np.int64).reshape(-1, 2).T
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
