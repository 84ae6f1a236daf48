"""Projections of single spans' windows on directions that are known: numbers, where activations would fill a disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from steerkit.extraction.batching import BATCH_TOKENS, Queue
from steerkit.extraction.extract import forward_layers
from steerkit.interfaces import Extractor
from steerkit.models.adapter_layout import adapter_state
from steerkit.models.limits import check_items

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.data.trace import Item
    from steerkit.models.language_model import LanguageModel


def project_windows(
    lm: LanguageModel,
    items: Sequence[Item],
    extractor: Extractor,
    window: tuple[int, int],
    directions: Sequence[Tensor],
    which: Mapping[str, int],
    layers: Sequence[int],
    *,
    batch_tokens: int = BATCH_TOKENS,
    on_batch: Callable[[int, int], None] | None = None,
) -> dict[str, np.ndarray]:
    """Project each span's window mean on a direction a layer.

    Args:
        directions: sets of directions [L, H], of the layers in their order.
        which: trace id → the number of the set that its windows are projected on.
        on_batch: called as (batches done, batches in all).

    Returns:
        Trace id → [S, L] float64; NaN where a span's window isn't whole.

    Raises:
        SteerkitError: no such layer, ids or positions that the model hasn't, or a trace that memory doesn't hold.
    """
    import torch

    for layer in layers:
        lm.check_layer(layer)
    check_items(lm, items)
    queue = Queue(lm, items, batch_tokens)
    found: dict[str, np.ndarray] = {}
    while queue.left:
        seen: dict[int, list[np.ndarray]] = {}
        with queue.next() as [batch], torch.inference_mode(), adapter_state(lm):
            windows = [_windows(item, extractor, window) for item in batch]

            def project(layer: int, hidden: Tensor, windows: list[tuple[Tensor, Tensor]] = windows) -> None:
                index, own = layers.index(layer), seen.setdefault(layer, [])  # noqa: B023  (called before the next)
                for row, (places, weights) in enumerate(windows):
                    direction = directions[which[batch[row].trace.id]][index].to(hidden.device, hidden.dtype)
                    along = (hidden[row] @ direction).double().cpu()
                    own.append((along[places] * weights).sum(1).numpy())

            forward_layers(lm, batch, layers, project)
        if queue.ran_out:
            continue
        for row, item in enumerate(batch):
            values = np.full((len(item.spans), len(layers)), np.nan)
            inside = extractor.positions(item.trace, item.spans, window)
            eligible = inside[:, 0] >= 0 if inside.size else np.zeros(len(inside), bool)
            values[eligible] = np.stack([seen[layer][row] for layer in layers], 1)
            found[item.trace.id] = values
        if on_batch:
            on_batch(queue.done, queue.count)
    return found


def _windows(item: Item, extractor: Extractor, window: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """[S, O] positions of the eligible spans' windows, and the weight of each; repeated ones have none."""
    import torch

    found = extractor.positions(item.trace, item.spans, window)
    own = found[found[:, 0] >= 0] if found.size else np.zeros((0, 1), np.int64)
    first = np.diff(own, axis=1, prepend=-1) != 0
    return torch.from_numpy(own), torch.from_numpy(first / first.sum(1, keepdims=True))
