"""Prompts are read once for all rows that share them, as far as no edit touches them.

Where no prompt token is steered (`tokens: generated`, unsteered rows), a prompt is read once. Where they are, the
blocks below the first edited site are: up to a block whose output is edited, or up to the one before a block that is
edited inside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from steerkit.errors import SteerkitError
from steerkit.generation.group_cache import new_cache, next_logits, select
from steerkit.generation.prefilled import Prefilled, Prefix
from steerkit.models.block_output import hidden_of, with_hidden

if TYPE_CHECKING:
    from torch import Tensor, nn

    from steerkit.interventions.edits import EditSet
    from steerkit.interventions.steering import Steering
    from steerkit.models.language_model import LanguageModel

TOLERANCE = {"float64": 1e-6, "float32": 1e-4, "float16": 2e-2, "bfloat16": 6e-2}  # of the largest logit


def prefill(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    edits: Sequence[EditSet],
    rows: Sequence[int],
    steering: Steering,
) -> Prefilled:
    """Read the rows' prompts, which are of one length where the model can't be padded.

    Args:
        rows: the rows' numbers in `steering`, whose edits these are.
    """
    import torch

    lone: dict[tuple[int, ...], int] = {}  # prompt → place
    units: dict[tuple[Any, ...], int] = {}  # prompt and what is done to it → place
    of_row, firsts = [], []
    for prompt, own, row in zip(prompts, edits, rows, strict=True):
        unit = lone.setdefault(tuple(prompt), len(lone)), _signature(own, row)
        if unit not in units:
            firsts.append(row)
        of_row.append(units.setdefault(unit, len(units)))
    index = torch.tensor(of_row, device=lm.device)
    of_unit = torch.tensor([place for place, _ in units], device=lm.device)
    ids, mask = left_pad(list(lone), lm.device)
    if all(done == () for _, done in units):
        found, to = _read(lm, ids, mask, [None] * len(lone), steering), of_unit[index]
    elif (
        len(units) == len(lone)
        or lm.batches != "padded"
        or (shared := _shared_blocks(edits)) == 0
        or not _shareable(lm, ids, mask, of_unit, firsts, shared - 1, steering)
    ):
        found, to = _read(lm, ids[of_unit], mask[of_unit], firsts, steering), index
    else:
        logits, lower, upper = _read_shared(lm, ids, mask, of_unit, firsts, shared - 1, steering)
        layers = _prefixes(lower, of_unit[index])[: len(lower.layers)] + _prefixes(upper, index)[len(lower.layers) :]
        return Prefilled(logits[index], mask[of_unit[index]], layers)
    logits, cache = found
    if lm.batches != "padded":
        select(cache, to)
        return Prefilled(logits[to], mask[of_unit[index]], [], cache)
    return Prefilled(logits[to], mask[of_unit[index]], _prefixes(cache, to))


def left_pad(prompts: Sequence[Sequence[int]], device: Any) -> tuple[Tensor, Tensor]:
    """[n, P] ids and their mask, 1 where there is a token."""
    import torch

    longest = max(len(prompt) for prompt in prompts)
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros(len(prompts), longest, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(list(prompt))
        mask[row, longest - len(prompt) :] = 1
    return ids.to(device), mask.to(device)


def _on_prompt(edits: EditSet) -> EditSet:
    """The edits that do something to a prompt. Replaced modules do the same to all rows."""
    return tuple(
        edit
        for edit in edits
        if edit.norm and edit.changes_forward and (edit.tokens != "generated" or not edit.intervention.shares_prefix)
    )


def _signature(edits: EditSet, row: int) -> tuple[Any, ...]:
    """What edits do to a prompt, equal for rows that may share its reading; empty for nothing."""
    done = _on_prompt(edits)
    alone = () if all(edit.intervention.shares_prefix for edit in done) else (row,)
    return alone + tuple((id(e.intervention), e.site, e.norm, id(e.direction), e.key) for e in done)


def _shared_blocks(edits: Sequence[EditSet]) -> int:
    """How many blocks lie below the first site where a prompt is edited."""
    done = [edit for own in edits for edit in _on_prompt(own)]
    if not all(edit.intervention.shares_prefix for edit in done):
        return 0
    first = min(edit.site for edit in done)
    return first.layer + first.is_block_output


def _read(
    lm: LanguageModel, ids: Tensor, mask: Tensor, rows: Sequence[int | None], steering: Steering
) -> tuple[Tensor, Any]:
    """[n, V] last logits, and the cache."""
    cache = new_cache(lm)
    steering.assign(rows, "prompt")
    position = (mask.cumsum(-1) - 1).clamp(min=0)
    if lm.batches == "padded":
        return next_logits(lm, ids, position, mask, cache, steering), cache
    try:
        return next_logits(lm, ids, position, None, cache, steering), cache
    except (TypeError, ValueError) as error:  # MiniMax takes a cache of its own only
        raise SteerkitError(f"{lm.name}: transformers' cache doesn't fit this model: {error}") from error


def _prefixes(cache: Any, index: Tensor) -> list[Prefix]:
    return [Prefix(layer.keys, layer.values, index) for layer in cache.layers]


def _read_shared(
    lm: LanguageModel, ids: Tensor, mask: Tensor, of_unit: Tensor, rows: Sequence[int], layer: int, steering: Steering
) -> tuple[Tensor, Any, Any]:
    """Blocks up to `layer` once a prompt, the others once a unit: the units' logits and both caches."""
    seen: list[Any] = []

    def stop(module: Any, args: Any, output: Any) -> None:
        seen.append(output)
        raise _Stop

    from transformers import DynamicCache

    lower = DynamicCache()
    steering.assign([None] * len(ids), "prompt")
    steering.position = (mask.cumsum(-1) - 1).clamp(min=0)
    handle = lm.blocks[layer].register_forward_hook(stop)
    try:
        lm.decoder(
            input_ids=ids, attention_mask=mask, position_ids=steering.position, past_key_values=lower, use_cache=True
        )
    except _Stop:
        pass
    finally:
        handle.remove()
    with _done(lm, layer, seen[0], of_unit):
        logits, upper = _read(lm, ids[of_unit], mask[of_unit], rows, steering)
    return logits, lower, upper


class _Stop(Exception):
    """The last shared block has run."""


@contextmanager
def _done(lm: LanguageModel, layer: int, output: Any, index: Tensor) -> Iterator[None]:
    """Inside, the blocks up to `layer` compute nothing: its output (for every prompt) is given."""
    hidden = hidden_of(output)
    hidden = hidden[index.to(hidden.device)]

    def give(here: int) -> Callable[..., Any]:
        def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            result = hidden if here == layer else hidden_states
            return with_hidden(output, result)

        return forward

    before = {}
    try:
        for here in range(layer + 1):
            block: Any = lm.blocks[here]
            before[here] = block.__dict__.get("forward")  # accelerate puts its own there
            block.forward = give(here)
        yield
    finally:
        for here, own in before.items():
            block = lm.blocks[here]
            if own is None:
                del block.forward
            else:
                block.forward = own


_trusted: WeakKeyDictionary[nn.Module, dict[int, bool]] = WeakKeyDictionary()


def _shareable(
    lm: LanguageModel, ids: Tensor, mask: Tensor, of_unit: Tensor, rows: Sequence[int], layer: int, steering: Steering
) -> bool:
    """Whether a model's blocks up to this one hand on hidden states and nothing else: tried once a model and block,
    on the first two units.

    Models whose later blocks read keys of earlier ones, or more than one stream, fail it and are read in full.
    """
    trusted = _trusted.setdefault(lm.decoder, {})
    if layer not in trusted:
        counted, two = dict(steering.steered_at), of_unit[:2]
        whole, _ = _read(lm, ids[two], mask[two], rows[:2], steering)
        if not bool(whole.isfinite().all()):  # an edit that breaks its row says nothing of the model
            steering.steered_at = counted
            return False
        trusted[layer] = False
        with suppress(Exception):  # whatever such a model makes of it
            parts, _, _ = _read_shared(lm, ids, mask, two, rows[:2], layer, steering)
            error = float((parts - whole).abs().max() / whole.abs().max())
            trusted[layer] = error <= TOLERANCE[str(whole.dtype).removeprefix("torch.")]
        steering.steered_at = counted
    return trusted[layer]
