"""Where units are above 0 in a batch of texts: a list of (unit, token, number), in tensors on the model's device.

Shapes: B texts padded to T tokens, F units of a group, n active ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from steerkit.errors import SteerkitError
from steerkit.extraction.batching import BATCH_TOKENS, Queue
from steerkit.extraction.extract import forward_layers
from steerkit.interventions.uncompiled import hooks_run
from steerkit.models.adapter_layout import adapter_state
from steerkit.models.limits import check_items

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.data.trace import Item
    from steerkit.models.language_model import LanguageModel
    from steerkit.models.units import UnitGroup


@dataclass(frozen=True)
class Active:
    """The active units of a group in a batch, ordered by unit, then by token; padding is left out.

    Attributes:
        unit: [n] number in the group.
        token: [n] row · T + place.
        value: [n] float32, above 0.
    """

    unit: Tensor
    token: Tensor
    value: Tensor


def read_active(
    lm: LanguageModel,
    items: Sequence[Item],
    groups: Sequence[UnitGroup],
    take: Callable[[Sequence[Item], Sequence[Active]], None],
    *,
    batch_tokens: int = BATCH_TOKENS,
    on_batch: Callable[[int, int], None] | None = None,
) -> None:
    """Read units that are never below 0 at every token; the LM head and the blocks after the last unit don't run.

    A block's numbers [B, T, F] are dropped as soon as the active ones have been taken out.

    Args:
        take: called for each batch with its items and what is active in each group, in the groups' order.
        batch_tokens: padded tokens that share a forward, at most.
        on_batch: called as (batches done, batches in all).

    Raises:
        SteerkitError: there are no units, one has not run or has run twice, a number is below 0 or not finite (unit and
            trace are named), ids or positions that the model hasn't, or a trace that memory doesn't hold even alone.
    """
    import torch

    if not groups:
        raise SteerkitError(f"{lm.name}: there are no units to read")
    check_items(lm, items)
    last = max(group.layer for group in groups)
    queue = Queue(lm, items, batch_tokens)
    while queue.left:
        with queue.next() as [batch], torch.inference_mode(), adapter_state(lm), hooks_run(lm, inside=True):
            with _watched(lm, batch, groups) as told:
                forward_layers(lm, batch, (last,), lambda layer, hidden: None)
            found = [_one(lm, group, own) for group, own in zip(groups, told, strict=True)]
        if queue.ran_out:
            continue
        with torch.inference_mode():
            take(batch, found)
        if on_batch:
            on_batch(queue.done, queue.count)


@contextmanager
def _watched(lm: LanguageModel, batch: Sequence[Item], groups: Sequence[UnitGroup]) -> Iterator[list[list[Active]]]:
    """What is active in each group in the forwards inside."""
    told: list[list[Active]] = [[] for _ in groups]
    handles: list[Any] = []

    def taking(group: UnitGroup, own: list[Active]) -> Callable[[Tensor], None]:
        return lambda numbers: own.append(_active(lm, batch, group, numbers))

    try:
        for group, own in zip(groups, told, strict=True):
            handles.append(group.watch(taking(group, own)))
        yield told
    finally:
        for handle in handles:
            handle.remove()


def _one(lm: LanguageModel, group: UnitGroup, told: Sequence[Active]) -> Active:
    if len(told) != 1:
        how = f"has run {len(told)} times" if told else "has not run"
        raise SteerkitError(f"{lm.name}: units can't be read: block {group.layer}: {group.name} {how}")
    return told[0]


def _active(lm: LanguageModel, batch: Sequence[Item], group: UnitGroup, numbers: Tensor) -> Active:
    import torch

    width = max(len(item.ids) for item in batch)
    if numbers.numel() != len(batch) * width * group.count:
        raise SteerkitError(f"{lm.name}: block {group.layer}: {group.name} ran on other tokens than the batch's")
    flat = numbers.detach().reshape(len(batch) * width, group.count)
    token, unit = _places(flat)
    value = flat[token, unit].float()
    lengths = torch.tensor([len(item.ids) for item in batch], device=token.device)
    own = token % width < lengths[token // width]
    if not own.all():
        token, unit, value = token[own], unit[own], value[own]
    if not ((value > 0) & value.isfinite()).all():
        bad = int((~((value > 0) & value.isfinite())).nonzero()[0])
        place = int(token[bad])
        raise SteerkitError(
            f"{lm.name}: unit {group.units[int(unit[bad])]} at token {place % width} of {batch[place // width].name} "
            f"is {float(value[bad])}: a finite number that is not below 0 is wanted; half precision overflows like "
            "this: use bf16 or float32"
        )
    order = unit.argsort(stable=True)
    return Active(unit[order], token[order], value[order])


def _places(flat: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of each number of [N, F] that is not 0, NaN among them."""
    import torch

    if flat.device.type != "cpu":
        row, column = flat.nonzero().unbind(1)
        return row, column
    where = torch.from_numpy(np.flatnonzero((flat != 0).numpy()))  # several times as fast as torch's there
    return where // flat.shape[1], where % flat.shape[1]
