"""One pass over texts for all units of a model: sums, strongest contexts, and contexts drawn from all others.

All is done for a whole group of units at once, on the list of what is active. A context is kept with the active tokens
of its window, so that memory does not grow with the texts: about (top + sample) · (20 + 6 a) bytes for each unit, a the
active tokens of a window.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from steerkit.extraction.batching import BATCH_TOKENS
from steerkit.models.units import write_norms
from steerkit.stats.noise import bits, key_of
from steerkit.units.active import Active, read_active
from steerkit.units.collected import CollectedUnits, Layout
from steerkit.units.sparse_table import SparseTable

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from steerkit.data.trace import Item
    from steerkit.models.language_model import LanguageModel
    from steerkit.models.units import UnitGroup

SPREAD = -7046029254386353131
"""0x9e3779b97f4a7c15, an odd number whose multiples lie far apart: units get keys of their own."""


def layout_of(groups: Sequence[UnitGroup], regions: Sequence[str], **kept: int) -> Layout:
    """The layout of groups' units; `kept` are its other attributes."""
    return Layout(
        tuple(group.layer for group in groups),
        tuple(group.count for group in groups),
        groups[0].part if groups else "",
        tuple(regions),
        **kept,
    )


def collect(
    lm: LanguageModel,
    items: Sequence[Item],
    groups: Sequence[UnitGroup],
    layout: Layout,
    regions: Mapping[str, np.ndarray],
    counts: Mapping[str, np.ndarray],
    *,
    seed: int = 0,
    see: Callable[[Sequence[Item], Sequence[Active]], None] | None = None,
    batch_tokens: int = BATCH_TOKENS,
    on_batch: Callable[[int, int], None] | None = None,
) -> CollectedUnits:
    """What units that are never below 0 do at the tokens of texts; the batches that they are read in don't matter.

    Args:
        layout: of the groups, and what is kept.
        regions: trace id → [T] numbers of ``layout.regions``.
        counts: trace id → [T] bool: the tokens that count.
        seed: of the draw of contexts; each is decided by seed, trace id, token and unit alone.
        see: also called with each batch, and what is active in it.

    Raises:
        SteerkitError: as of `steerkit.units.active.read_active`.
    """
    found = CollectedUnits(layout, write_norms(groups).numpy())
    parts = [_Group(found, first, count) for first, count in zip(layout.firsts, layout.counts, strict=True)]

    def take(batch: Sequence[Item], active: Sequence[Active]) -> None:
        if see:
            see(batch, active)
        places = _Places(found, batch, regions, counts, seed)
        for part, own in zip(parts, active, strict=True):
            part.take(places.on(own.unit.device), own)
        found.settle()
        for part in parts:
            part.bounds()

    read_active(lm, items, groups, take, batch_tokens=batch_tokens, on_batch=on_batch)
    for part in parts:
        part.finish()
    return found


class _Places:
    """A batch's tokens, [B · T] each: region, whether it counts; and [B] of its texts: number, length, key."""

    def __init__(
        self,
        found: CollectedUnits,
        batch: Sequence[Item],
        regions: Mapping[str, np.ndarray],
        counts: Mapping[str, np.ndarray],
        seed: int,
    ) -> None:
        import torch

        self.width = max(len(item.ids) for item in batch)
        region, count = (np.zeros((len(batch), self.width), kind) for kind in (np.int64, bool))
        for row, item in enumerate(batch):
            region[row, : len(item.ids)] = regions[item.trace.id]
            count[row, : len(item.ids)] = counts[item.trace.id]
            found.region_tokens += np.bincount(regions[item.trace.id], minlength=len(found.region_tokens))
        found.tokens += int(count.sum())
        self.numbers = np.array([found.number(item.trace.id, len(item.ids)) for item in batch])
        self.region, self.count = torch.from_numpy(region.ravel()), torch.from_numpy(count.ravel())
        self.length = torch.tensor([len(item.ids) for item in batch])
        self.key = torch.tensor([key_of(seed, "context", item.trace.id) for item in batch])

    def on(self, device: object) -> _Places:
        """The same, its tensors on a device."""
        for name in ("region", "count", "length", "key"):
            setattr(self, name, getattr(self, name).to(device))
        return self


class _Group:
    """The units of one group: sums on their device, and the scores that a context must reach to be kept."""

    def __init__(self, found: CollectedUnits, first: int, count: int) -> None:
        self.found, self.first, self.count = found, first, count
        self.active: Tensor | None = None

    def take(self, places: _Places, own: Active) -> None:
        """Take in what is active in a batch."""
        import torch

        if self.active is None:
            self._begin(own.unit.device)
        assert self.active is not None
        layout = self.found.layout
        counted = places.count[own.token]
        by_region = own.unit * len(layout.regions) + places.region[own.token]
        self.regions += torch.bincount(by_region, minlength=self.regions.numel())
        unit, value = own.unit[counted], own.value[counted]
        here = torch.bincount(unit, minlength=self.count)
        self.active += here
        ends = here.cumsum(0)
        sums = torch.nn.functional.pad(value.double().cumsum(0), (1, 0))
        self.total += sums[ends] - sums[ends - here]
        self.largest.scatter_reduce_(0, unit, value, "amax")

        strong = (counted & (own.value >= self.least[own.unit])).nonzero().squeeze(1)
        strong = strong[self._first_of_text(own, strong, places.width, layout.per_trace)]
        draw = self._draws(places, own)
        drawn = (counted & (draw >= self.lowest[own.unit])).nonzero().squeeze(1)
        self.found.top.add(self._table(places, own, strong, own.value.double()))
        self.found.sample.add(self._table(places, own, drawn, draw))

    def bounds(self) -> None:
        """Take over what must be reached now."""
        if self.active is not None:
            own = slice(self.first, self.first + self.count)
            self.least = self._tensor(self.found.top.bound[own])
            self.lowest = self._tensor(self.found.sample.bound[own])

    def finish(self) -> None:
        """Add the sums to what is found."""
        if self.active is None:
            return
        found, own = self.found, slice(self.first, self.first + self.count)
        found.active[own] = self.active.cpu().numpy()
        found.total[own] = self.total.cpu().numpy()
        found.largest[own] = self.largest.cpu().numpy()
        found.region_active[:, own] = self.regions.reshape(self.count, -1).T.cpu().numpy()

    def _begin(self, device: torch.device) -> None:
        import torch

        self.device = device
        self.active = torch.zeros(self.count, dtype=torch.long, device=device)
        self.total = torch.zeros(self.count, dtype=torch.double, device=device)
        self.largest = torch.zeros(self.count, device=device)
        self.regions = torch.zeros(self.count * len(self.found.layout.regions), dtype=torch.long, device=device)
        self.bounds()

    def _tensor(self, values: np.ndarray) -> Tensor:
        import torch

        return torch.from_numpy(values.copy()).to(self.device)

    def _draws(self, places: _Places, own: Active) -> Tensor:
        """[n] float64, one of 2³² values, of seed, text, token and unit."""
        key = places.key[own.token // places.width] ^ ((own.unit + self.first) * SPREAD)
        return bits(key, own.token % places.width, stream=0, size=1).squeeze(-1).double()

    @staticmethod
    def _first_of_text(own: Active, chosen: Tensor, width: int, most: int) -> Tensor:
        """[k] bool: whether one is among the `most` strongest of its unit in its text, the earliest of equal ones."""
        import torch

        group = own.unit[chosen] * (int(own.token.max() if len(own.token) else 0) // width + 1)
        group = group + own.token[chosen] // width
        order = own.value[chosen].argsort(descending=True, stable=True)
        order = order[group[order].argsort(stable=True)]
        ordered = group[order]
        place = torch.arange(len(order), device=order.device) - torch.searchsorted(ordered, ordered)
        found = torch.zeros(len(chosen), dtype=torch.bool, device=order.device)
        found[order] = place < most
        return found

    def _table(self, places: _Places, own: Active, chosen: Tensor, score: Tensor) -> SparseTable:
        """The contexts of some of what is active, with what is active around each."""
        import torch

        layout, width = self.found.layout, places.width
        row, at = own.token[chosen] // width, own.token[chosen] % width
        keys = own.unit * (len(places.length) * width) + own.token
        here = keys[chosen]
        begin = torch.searchsorted(keys, here - at.clamp(max=layout.before))
        end = torch.searchsorted(keys, here + (places.length[row] - 1 - at).clamp(max=layout.after), right=True)
        near = end - begin
        inner = torch.arange(int(near.sum()), device=near.device) + (begin - (near.cumsum(0) - near)).repeat_interleave(
            near
        )
        tensors = {
            "unit": own.unit[chosen] + self.first,
            "trace": row,
            "at": at,
            "value": own.value[chosen],
            "score": score[chosen],
            "near": near,
            "offset": own.token[inner] - own.token[chosen].repeat_interleave(near),
            "values": own.value[inner],
        }
        table = SparseTable.of({name: tensor.cpu().numpy() for name, tensor in tensors.items()})
        return table.renumbered(places.numbers)
