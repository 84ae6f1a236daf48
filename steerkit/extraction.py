"""One forward over the traces: every layer, window and label at once, in memory that doesn't grow.

The decoder runs without its LM head, right-padded (causal attention never sees the padding), and stops after
the deepest requested block. Each block's output is summed as it passes (`steerkit.collector`) and then dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.collector import Collector
from steerkit.errors import SteerkitError
from steerkit.interfaces import Extractor, Need
from steerkit.model import adapter_state
from steerkit.statistics import ActivationStatistics
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
            collector = Collector(lm, batch, extractor, tuple(labels), layers, frozenset(needs))
            _forward(lm, batch, layers, collector.add)
            part = collector.finish(raw_folder)
            total = part if total is None else total + part
            if on_batch:
                on_batch(number + 1, len(plan), part)
    return ActivationStatistics(total.windows if total else {}, made_by(lm))


def read_layer(
    lm: LanguageModel, items: Sequence[Item], layer: int, *, batch_tokens: int = BATCH_TOKENS
) -> Iterator[tuple[list[Item], Tensor]]:
    """Batches of items, each with one block's output [B, T, H], padded on the right.

    Raises:
        SteerkitError: a layer out of range.
    """
    import torch

    lm.check_layer(layer)
    for batch in batches(items, batch_tokens):
        seen: list[Tensor] = []
        with torch.inference_mode(), adapter_state(lm):
            _forward(lm, batch, (layer,), lambda _, hidden: seen.append(hidden))  # noqa: B023  (called before the next)
        yield batch, seen[0]


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
