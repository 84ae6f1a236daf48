"""Activations into the sums of draws and folds, in the forward that sums the judge's labels.

A window's activations are averaged over its offsets, one mean a span (or a position, where each counts once); all
draws, weightings and folds then are one matrix product a layer over a group of batches. Float64 throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from steerkit.data.drawn_statistics import DrawnStatistics, rows_of
from steerkit.data.draws import Draws, TraceSpans
from steerkit.interfaces import Extractor

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from steerkit.data.trace import Item


class DrawnSums:
    """Sums of draws: `begin` a group of batches, `add` each layer of each, `commit`."""

    def __init__(self, draws: Draws, extractor: Extractor, layers: tuple[int, ...], width: int, squares: bool) -> None:
        import torch

        self.draws, self.extractor, self.layers = draws, extractor, layers
        rows = rows_of(len(draws.names), draws.folds, len(draws.weighted))
        self.moments = {
            name: torch.zeros(rows, len(layers), width, dtype=torch.float64)
            for name in (("sums", "squares") if squares else ("sums",))
        }
        self.rooms: dict[tuple[str, int], Tensor] = {}  # (moment, layer) → means of a group's units
        self.counts = torch.zeros(rows, dtype=torch.float64)
        self.tokens = torch.zeros(draws.folds, len(layers), width, dtype=torch.float64)
        self.norms = torch.zeros(draws.folds, len(layers), dtype=torch.float64)
        self.traces = torch.zeros(draws.folds, dtype=torch.float64)

    def begin(self, group: Sequence[Sequence[Item]]) -> None:
        """Make ready for a group; what of an earlier one was not committed is forgotten."""
        self.group, self.units = group, [_units(batch, self.extractor, self.draws) for batch in group]
        self.firsts = np.cumsum([0, *(len(own.of) for own in self.units)])
        self.own: dict[int, list[tuple[Tensor, Tensor]]] = {layer: [] for layer in self.layers}
        self.places: dict[tuple[int, torch.device], Tensor] = {}

    def add(self, number: int, layer: int, wide: Tensor, lengths: Tensor, own: Tensor) -> None:
        """Take in a layer of the group's batch `number`.

        Args:
            wide: [B * T, H] float64 activations.
            lengths: [B * T] their L2 norms.
            own: [B * T] float64 weights of each trace's own tokens.
        """
        import torch

        if (number, wide.device) not in self.places:
            self.places[number, wide.device] = torch.from_numpy(self.units[number].positions).to(wide.device)
        places = self.places[number, wide.device]
        for moment in self.moments:
            values = wide if moment == "sums" else wide.square()
            if len(places):
                found = torch.nn.functional.embedding_bag(places, values, mode="mean")
                self._room(moment, layer, found)[slice(*self.firsts[number : number + 2])] = found
        if self.draws.folds:
            batch = len(self.group[number])
            weights = own.view(batch, 1, -1)
            tokens = torch.bmm(weights, wide.view(batch, -1, wide.shape[1]))[:, 0]
            norms = torch.bmm(weights, lengths.double().view(batch, -1, 1))[:, 0, 0]
            self.own[layer].append((tokens, norms))

    def _room(self, moment: str, layer: int, like: Tensor) -> Tensor:
        """[U, H] for the group's means. Kept from group to group: small tensors, made anew each time, would keep the
        heap from reusing what forwards leave.
        """
        needed = int(self.firsts[-1])
        if (moment, layer) not in self.rooms or len(self.rooms[moment, layer]) < needed:
            self.rooms[moment, layer] = like.new_empty(needed, like.shape[1])
        return self.rooms[moment, layer]

    def commit(self) -> None:
        """Add the group to the sums."""
        import torch

        spread, counts = _spread(self.group, self.units, self.draws)
        weights = torch.from_numpy(spread)
        moved: dict[torch.device, Tensor] = {}
        for (moment, layer), room in self.rooms.items():
            if room.device not in moved:
                moved[room.device] = weights.to(room.device)
            found = moved[room.device] @ room[: self.firsts[-1]]
            self.moments[moment][:, self.layers.index(layer)] += found.cpu()
        self.counts += torch.from_numpy(counts)
        if not self.draws.folds:
            return
        items = [item for batch in self.group for item in batch]
        folds = torch.tensor([self.draws.of[item.trace.id].fold for item in items])
        for index, layer in enumerate(self.layers):
            tokens, norms = zip(*self.own[layer], strict=True)
            self.tokens[:, index].index_add_(0, folds, torch.cat(tokens).cpu())
            self.norms[:, index].index_add_(0, folds, torch.cat(norms).cpu())
        self.traces.index_add_(0, folds, torch.tensor([float(item.trace.thinking > 0) for item in items]).double())

    def statistics(self) -> DrawnStatistics:
        """What was committed so far; what is committed later is added to it."""
        return DrawnStatistics(
            window=self.draws.window,
            label=self.draws.label,
            names=self.draws.names,
            weighted=self.draws.weighted,
            sums=self.moments["sums"],
            squares=self.moments.get("squares"),
            counts=self.counts,
            tokens=self.tokens,
            norms=self.norms,
            traces=self.traces,
        )

    def go_on_from(self, before: DrawnStatistics) -> None:
        """Begin with earlier sums."""
        for name in self.moments:
            self.moments[name] += getattr(before, name)
        for name in ("counts", "tokens", "norms", "traces"):
            getattr(self, name).add_(getattr(before, name))


@dataclass(frozen=True)
class _Units:
    """What is averaged and then weighted, of a batch: U windows of eligible spans, or positions that count once.

    Attributes:
        positions: [U, O] in the batch's flat [B * T].
        of: [U] row of the batch.
        label: [J + 1, U] whether it belongs to the label's spans, by each pseudo-labelling and, last, by the judge.
        rest: [J + 1, U] the same of the other spans.
        has: [J + 1, B] whether the trace has the label.
        weights: [K, U] float64.
    """

    positions: np.ndarray
    of: np.ndarray
    label: np.ndarray
    rest: np.ndarray
    has: np.ndarray
    weights: np.ndarray


def _units(batch: Sequence[Item], extractor: Extractor, draws: Draws) -> _Units:
    """The units of a batch."""
    longest, once = max(len(item.ids) for item in batch), extractor.once(draws.window)
    places, rows, label, rest, has, weights = [], [], [], [], [], []
    for row, item in enumerate(batch):
        found = extractor.positions(item.trace, item.spans, draws.window)
        inside = found[:, 0] >= 0 if found.size else np.zeros(len(found), bool)
        drawn, judged = draws.of[item.trace.id], [span.label == draws.label for span in item.spans]
        positive = np.concatenate([drawn.positive, np.array(judged, bool)[None]])
        own = found[inside] if found.size else np.zeros((0, 1), np.int64)
        mine, other, weight = positive[:, inside], ~positive[:, inside], drawn.weights[:, inside]
        if once:
            own, mine, other, weight = _covered(own, mine, other, weight)
        places.append(own + row * longest)
        rows.append(np.full(len(own), row))
        label.append(mine)
        rest.append(other)
        has.append(positive.any(1))
        weights.append(weight)
    width = max(own.shape[1] for own in places)
    return _Units(
        positions=np.concatenate([own for own in places if len(own)] or [np.zeros((0, width), np.int64)]),
        of=np.concatenate(rows),
        label=np.concatenate(label, 1),
        rest=np.concatenate(rest, 1),
        has=np.stack(has, 1),
        weights=np.concatenate(weights, 1),
    )


def _covered(
    windows: np.ndarray, label: np.ndarray, rest: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Of windows [S, O] whose positions count once: the positions [P, 1], and what covers them."""
    positions, at = np.unique(windows, return_inverse=True)
    covers = np.zeros((len(windows), len(positions)), bool)
    covers[np.repeat(np.arange(len(windows)), windows.shape[1]), at.reshape(-1)] = True
    return positions[:, None], label @ covers, rest @ covers, weights @ covers


def _spread(group: Sequence[Sequence[Item]], units: Sequence[_Units], draws: Draws) -> tuple[np.ndarray, np.ndarray]:
    """[R, U] float64 weights of a group's units in each row of the sums, and [R] what they count."""
    firsts = np.cumsum([0, *map(len, group)])
    of = np.concatenate([own.of + first for own, first in zip(units, firsts[:-1], strict=True)])
    label, rest, has, weights = (
        np.concatenate([getattr(own, name) for own in units], 1) for name in ("label", "rest", "has", "weights")
    )
    inside = np.zeros((len(of), firsts[-1]))
    inside[np.arange(len(of)), of] = 1
    masks = np.stack([np.ones_like(label), label, rest, has[:, of]], 1)  # [J + 1, all and three groups, U]
    sizes = masks @ inside  # by trace
    by_trace = masks / np.maximum(sizes, 1)[:, :, of]
    both = np.stack([by_trace, masks], 1)  # [J + 1, 2, 4, U]
    counts = np.stack([sizes > 0, sizes], 1).astype(np.float64)  # [J + 1, 2, 4, traces]
    fold = np.array([draws.of[item.trace.id].fold for batch in group for item in batch], np.int64)
    folds = np.zeros((draws.folds, 2, 4, len(of)))
    counted = np.zeros((draws.folds, 2, 4))
    if draws.folds:
        folds[fold[of], :, :, np.arange(len(of))] = both[-1].transpose(2, 0, 1)
        np.add.at(counted, fold, counts[-1].transpose(2, 0, 1))
    rows = [_flat(both[:-1, :, 1:]), _flat(folds), weights]
    totals = [counts[:-1, :, 1:].sum(-1).reshape(-1), counted.reshape(-1), weights.sum(1)]
    return np.concatenate(rows), np.concatenate(totals)


def _flat(weights: np.ndarray) -> np.ndarray:
    """[A, B, C, U] → [A · B · C, U], also where no trace of a group has a window and U is 0."""
    return weights.reshape(int(np.prod(weights.shape[:-1])), weights.shape[-1])


def spans_of(items: Sequence[Item], extractor: Extractor, label: str, window: tuple[int, int]) -> list[TraceSpans]:
    """What draws are made of: which of each trace's spans are eligible for a window, and which have a label."""
    found = []
    for item in items:
        places = extractor.positions(item.trace, item.spans, window)
        eligible = places[:, 0] >= 0 if places.size else np.zeros(len(places), bool)
        found.append(TraceSpans(item.trace.id, eligible, np.array([s.label == label for s in item.spans], bool)))
    return found
