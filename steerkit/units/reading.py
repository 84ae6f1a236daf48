"""The numbers of all units at every token of texts, in one pass of the decoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

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


def read_units(
    lm: LanguageModel,
    items: Sequence[Item],
    groups: Sequence[UnitGroup],
    take: Callable[[Item, Tensor], None],
    *,
    batch_tokens: int = BATCH_TOKENS,
    on_batch: Callable[[int, int], None] | None = None,
) -> None:
    """Read units at every token; the LM head and the blocks after the last unit don't run.

    Args:
        groups: units, which are the columns in this order (`steerkit.models.units.units_in`).
        take: called once for each item, in no set order, with its numbers [T, U], float32 on the CPU.
        batch_tokens: padded tokens that share a forward, at most.
        on_batch: called as (batches done, batches in all).

    Raises:
        SteerkitError: there are no units, one has not run or has run twice, a number is not finite (unit and trace are
            named), ids or positions that the model hasn't, or a trace that memory doesn't hold even alone.
    """
    import torch

    if not groups:
        raise SteerkitError(f"{lm.name}: there are no units to read")
    check_items(lm, items)
    last = max(group.layer for group in groups)
    queue = Queue(lm, items, batch_tokens)
    while queue.left:
        with queue.next() as [batch], torch.inference_mode(), adapter_state(lm), hooks_run(lm, inside=True):
            with _watched(lm, groups) as told:
                forward_layers(lm, batch, (last,), lambda layer, hidden: None)
            numbers = _joined(lm, batch, groups, told)
        if queue.ran_out:
            continue
        _check_finite(lm, batch, groups, numbers)
        for row, item in enumerate(batch):
            take(item, numbers[row, : len(item.ids)])
        if on_batch:
            on_batch(queue.done, queue.count)


@contextmanager
def _watched(lm: LanguageModel, groups: Sequence[UnitGroup]) -> Iterator[list[list[Tensor]]]:
    """What each group tells of the forwards inside."""
    told: list[list[Tensor]] = [[] for _ in groups]
    handles = []
    try:
        for group, own in zip(groups, told, strict=True):
            handles.append(group.watch(own.append))
        yield told
    finally:
        for handle in handles:
            handle.remove()


def _joined(
    lm: LanguageModel, batch: Sequence[Item], groups: Sequence[UnitGroup], told: Sequence[Sequence[Tensor]]
) -> Tensor:
    """[B, T, U] float32 on the CPU. Raises: SteerkitError for groups that told nothing, twice, or of other tokens."""
    import torch

    shape = len(batch), max(len(item.ids) for item in batch)
    parts, wrong = [], []
    for group, own in zip(groups, told, strict=True):
        if len(own) == 1 and own[0].numel() == shape[0] * shape[1] * group.count:
            parts.append(own[0].float().reshape(*shape, group.count))
        else:
            how = "has not run" if not own else f"has run {len(own)} times" if len(own) > 1 else "ran on other tokens"
            wrong.append(f"block {group.layer}: {group.name} {how}")
    if wrong:
        raise SteerkitError(f"{lm.name}: units can't be read: {'; '.join(wrong[:4])}")
    if len({part.device for part in parts}) > 1:  # a model that is spread over devices
        parts = [part.cpu() for part in parts]
    return torch.cat(parts, dim=-1).cpu()


def _check_finite(lm: LanguageModel, batch: Sequence[Item], groups: Sequence[UnitGroup], numbers: Tensor) -> None:
    """Raises: SteerkitError naming the first number of a trace's own tokens that is not finite."""
    from steerkit.models.units import units_in

    if numbers.isfinite().all():
        return
    for row, item in enumerate(batch):
        bad = (~numbers[row, : len(item.ids)].isfinite()).nonzero()
        if len(bad):
            token, column = (int(index) for index in bad[0])
            raise SteerkitError(
                f"{lm.name}: unit {units_in(groups)[column]} at token {token} of {item.name} is not a finite number; "
                "half precision overflows like this: use bf16 or float32"
            )
