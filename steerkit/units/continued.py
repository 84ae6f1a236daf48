"""Forwards that begin at a block: what the blocks below it gave is known, and nothing there has changed since."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from steerkit.generation.prefill import TOLERANCE
from steerkit.models.block_output import hidden_of, with_hidden
from steerkit.models.memory import out_of_memory

if TYPE_CHECKING:
    from torch import Tensor, nn

    from steerkit.models.language_model import LanguageModel


def logits_at(lm: LanguageModel, ids: Tensor, places: Tensor) -> Tensor:
    """[B, P, V] logits of [B, T] ids at P positions; the head runs on no others, where the family lets it.

    Rows are padded on the right: a causal model's earlier positions don't see it.
    """
    if "logits_to_keep" in inspect.signature(lm.transformer.forward).parameters:
        found: Tensor = lm.model(input_ids=ids, use_cache=False, logits_to_keep=places).logits
        return found
    return _all_logits(lm, ids)[:, places]


def _all_logits(lm: LanguageModel, ids: Tensor) -> Tensor:
    found: Tensor = lm.model(input_ids=ids, use_cache=False).logits
    return found


@contextmanager
def kept_outputs(lm: LanguageModel, layers: set[int], outputs: dict[int, Any]) -> Iterator[None]:
    """Inside, what these blocks put out goes to `outputs`."""

    def keep(layer: int) -> Callable[..., None]:
        def see(module: Any, args: Any, output: Any) -> None:
            outputs[layer] = with_hidden(output, hidden_of(output).clone())  # some models add to it in place

        return see

    handles = [lm.blocks[layer].register_forward_hook(keep(layer)) for layer in sorted(layers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def begun_at(lm: LanguageModel, first: int, outputs: Mapping[int, Any], copies: int) -> Iterator[None]:
    """Inside, a forward begins at block `first`: those below compute nothing, and the last of them hands on its kept
    output, so many copies of all its rows one after the other. 0 is a whole forward."""
    if not first:
        yield
        return
    output = outputs[first - 1]
    hidden = hidden_of(output)
    hidden = hidden.repeat(copies, 1, 1)

    def give(layer: int) -> Callable[..., Any]:
        def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            return with_hidden(output, hidden if layer == first - 1 else hidden_states)

        return forward

    before: dict[int, Any] = {}
    try:
        for layer in range(first):
            block: Any = lm.blocks[layer]
            before[layer] = block.__dict__.get("forward")  # accelerate puts its own there
            block.forward = give(layer)
        yield
    finally:
        for layer, own in before.items():
            block = lm.blocks[layer]
            if own is None:
                del block.forward
            else:
                block.forward = own


_trusted: WeakKeyDictionary[nn.Module, dict[int, bool]] = WeakKeyDictionary()


def can_begin_at(lm: LanguageModel, first: int, ids: Tensor, outputs: Mapping[int, Any]) -> bool:
    """Whether a model's blocks below this one hand on hidden states and nothing else: tried once a model and block.

    The first row, twice, is begun at the block and held against a whole forward. Models whose later blocks read keys of
    earlier ones, or more than one stream, fail.

    Args:
        ids: [B, T] that `outputs` are of.
    """
    import torch

    if not first:
        return True
    trusted = _trusted.setdefault(lm.decoder, {})
    if first not in trusted:
        one, output = ids[:1], outputs[first - 1]
        whole = _all_logits(lm, one)
        try:
            row = {first - 1: with_hidden(output, hidden_of(output)[:1])}
            copies = 1 if lm.batches == "alone" else 2
            with begun_at(lm, first, row, copies):
                parts = logits_at(lm, one.repeat(copies, 1), torch.arange(ids.shape[1]))
            difference = float((parts - whole).abs().max() / whole.abs().max())
            trusted[first] = difference <= TOLERANCE[str(whole.dtype).removeprefix("torch.")]
        except Exception as error:  # whatever such a model makes of it
            if out_of_memory(error):
                raise
            trusted[first] = False
    return trusted[first]
