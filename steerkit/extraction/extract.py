"""One forward over the traces: every layer, window and label at once, in memory that doesn't grow.

The decoder runs without its LM head on traces of like length (`steerkit.extraction.batching`), right-padded (causal
attention never sees the padding), and stops after the deepest requested block. Each block's output is summed as it
passes (`steerkit.extraction.collector`) and then dropped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.data.draws import Draws
from steerkit.data.site import Site
from steerkit.data.statistics import ActivationStatistics
from steerkit.data.trace import Item
from steerkit.data.windows import groups_of
from steerkit.errors import SteerkitError
from steerkit.extraction.batching import BATCH_TOKENS, Queue
from steerkit.extraction.collector import Collector
from steerkit.interfaces import Extractor, Need
from steerkit.interventions.uncompiled import hooks_run
from steerkit.models.adapter_layout import adapter_state
from steerkit.models.block_output import hidden_of
from steerkit.models.language_model import check_stream
from steerkit.models.limits import check_items
from steerkit.models.sites import Place, input_of, resolve

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.models.language_model import LanguageModel

PART_SHARE = 0.05  # of an extraction's time that may go into handing over what it has so far


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
    on_batch: Callable[[int, int], None] | None = None,
    on_part: Callable[[ActivationStatistics, list[str]], None] | None = None,
    before: ActivationStatistics | None = None,
    skip: Collection[str] = (),
    draws: Draws | None = None,
) -> ActivationStatistics:
    """Sum a model's activations before and around the spans of traces.

    Args:
        labels: labels that get groups of their own, all that occur by default; spans with another label count in
            `all` and `rest:*`.
        layers: 0-based blocks to read, all by default. Nothing runs after the deepest one.
        needs: what the fitters declared.
        raw_folder: where single spans' window means stream to, when `raw` is needed.
        batch_tokens: padded tokens that share a forward, at most; fewer on a CPU, whose caches are faster than its
            memory, and where memory runs out.
        on_batch: called as (batches done, batches in all).
        on_part: called now and then, and when an error ends the extraction, as (statistics so far, ids of the traces
            in them that were not in `before`).
        before: statistics of an earlier, interrupted extraction, to which the new ones are added.
        skip: trace ids that are in `before`.
        draws: pseudo-labels and folds of these traces, which are summed in the same forward
            (`ActivationStatistics.drawn`) and change nothing else.

    Returns:
        Float64 sums on the CPU, additive over disjoint sets of traces.

    Raises:
        SteerkitError: a layer out of range, no traces, ids or positions that the model hasn't, a non-finite
            activation (layer and trace named), or a trace that memory doesn't hold even alone.
    """
    import torch

    if labels is None:
        labels = sorted({span.label for item in items for span in item.spans})
    layers = tuple(range(lm.depth)) if layers is None else tuple(sorted(set(layers)))
    for layer in layers:
        lm.check_layer(layer)
    if "raw" in needs and raw_folder is None:
        raise SteerkitError("a fitter needs raw windows: give extract() a raw_folder to stream them to")
    done = set(skip)
    left = [item for item in items if item.trace.id not in done]
    if not left and not skip:
        raise SteerkitError("there is no trace to extract from")
    check_items(lm, left)
    collector = Collector(lm, extractor, tuple(labels), layers, frozenset(needs), raw_folder, before, draws)
    begin, spent = time.monotonic(), 0.0

    def hand_over() -> None:
        nonlocal spent
        if on_part and collector.traces and collector.whole:
            began = time.monotonic()
            so_far = collector.statistics()
            on_part(replace(so_far, drawn=deepcopy(so_far.drawn)), collector.traces)
            spent += time.monotonic() - began

    queue = Queue(lm, left, batch_tokens, most=2 * len(groups_of(labels)))  # cells need no more room than the sums
    try:
        while queue.left:
            with queue.next() as group, torch.inference_mode(), adapter_state(lm):
                collector.begin(group)
                for number, batch in enumerate(group):
                    forward_layers(lm, batch, layers, partial(collector.add, number))
                    if on_batch and number + 1 < len(group):
                        on_batch(queue.done + number + 1, queue.count)
            if queue.ran_out:
                continue
            with torch.inference_mode():
                collector.commit()
            if on_batch:
                on_batch(queue.done, queue.count)
            if spent <= PART_SHARE * (time.monotonic() - begin):
                hand_over()
    except BaseException:
        hand_over()
        raise
    return replace(collector.statistics(), meta=made_by(lm))


def read_layer(
    lm: LanguageModel, items: Sequence[Item], layer: int, *, batch_tokens: int = BATCH_TOKENS
) -> Iterator[tuple[list[Item], Tensor]]:
    """Batches of items, each with one block's output [B, T, H], padded on the right.

    Raises:
        SteerkitError: a layer out of range, or a trace that memory doesn't hold even alone.
    """
    import torch

    lm.check_layer(layer)
    check_items(lm, items)
    queue = Queue(lm, items, batch_tokens)
    while queue.left:
        seen: list[Tensor] = []
        with queue.next() as [batch], torch.inference_mode(), adapter_state(lm):
            forward_layers(lm, batch, (layer,), lambda _, hidden: seen.append(hidden))  # noqa: B023  (called before the next)
        if not queue.ran_out:
            yield batch, seen[0]


def read_sites(
    lm: LanguageModel, items: Sequence[Item], sites: Sequence[Site], *, batch_tokens: int = BATCH_TOKENS
) -> Iterator[tuple[list[Item], dict[Site, Tensor]]]:
    """Batches of items, each with the sites' tensors [B, T, D], padded on the right.

    Nothing that is computed after the last site runs.

    Raises:
        SteerkitError: no sites, a site that the model hasn't, or a trace that memory doesn't hold even alone.
    """
    import torch

    if not sites:
        raise SteerkitError("there is no site to read")
    places = [resolve(lm, site) for site in dict.fromkeys(sites)]
    check_items(lm, items)
    queue = Queue(lm, items, batch_tokens)
    while queue.left:
        with queue.next() as [batch], torch.inference_mode(), adapter_state(lm):
            read = _read_places(lm, batch, places)
        if not queue.ran_out:
            yield batch, read


def made_by(lm: LanguageModel) -> dict[str, Any]:
    """Provenance of a model's statistics."""
    return {"model": lm.name, "fingerprint": lm.fingerprint, "depth": lm.depth}


class _Stop(Exception):
    """What was asked for has run."""


def forward_layers(
    lm: LanguageModel, batch: Sequence[Item], layers: Sequence[int], see: Callable[[int, Tensor], None]
) -> None:
    """Run the decoder on a right-padded batch; `see(layer, hidden [B, T, H])` for each layer; then stop."""
    seen: set[int] = set()

    def hook(layer: int) -> Callable[..., None]:
        def read(module: Any, args: Any, output: Any) -> None:
            seen.add(layer)
            hidden = hidden_of(output)
            check_stream(hidden, lm.name)
            see(layer, hidden)
            if layer == layers[-1]:
                raise _Stop

        return read

    handles = [lm.blocks[layer].register_forward_hook(hook(layer)) for layer in layers]
    _run(lm, batch, handles, inside=False)
    if missed := sorted(set(layers) - seen):
        raise SteerkitError(f"{lm.name}: block {', '.join(map(str, missed))} ran without its hooks: nothing was read")


def _read_places(lm: LanguageModel, batch: Sequence[Item], places: Sequence[Place]) -> dict[Site, Tensor]:
    """Copies of the tensors at these places."""
    seen: dict[Site, Tensor] = {}

    def keep(place: Place, value: Any) -> None:
        # A copy: some models add to a module's output in place
        seen[place.site] = place.read(value, len(batch)).clone()
        if len(seen) == len(places):
            raise _Stop

    def output(place: Place) -> Callable[..., None]:
        return lambda module, args, output: keep(place, output)

    def given(place: Place) -> Callable[..., None]:
        return lambda module, args, kwargs: keep(place, input_of(module, args, kwargs)[0])

    handles = [
        place.module.register_forward_hook(output(place))
        if place.side == "out"
        else place.module.register_forward_pre_hook(given(place), with_kwargs=True)
        for place in places
    ]
    _run(lm, batch, handles, inside=True)
    if missed := [str(place.site) for place in places if place.site not in seen]:
        raise SteerkitError(f"{lm.name}: {', '.join(missed)}: its module ran without its hooks: nothing was read")
    return seen


def _run(lm: LanguageModel, batch: Sequence[Item], handles: Sequence[Any], *, inside: bool) -> None:
    """The decoder on a right-padded batch until a hook stops it; then the hooks come off."""
    import torch

    longest = max(len(item.ids) for item in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    for row, item in enumerate(batch):
        ids[row, : len(item.ids)] = torch.tensor(item.ids)
    try:
        with hooks_run(lm, inside=inside):
            lm.decoder(input_ids=ids.to(lm.device), use_cache=False)
    except _Stop:
        pass
    finally:
        for handle in handles:
            handle.remove()
