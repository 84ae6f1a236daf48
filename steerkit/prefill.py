"""Prompts are read once for all rows that share them, as far as no edit touches them.

Where no prompt token is steered (`tokens: generated`, unsteered rows), a prompt is read once. Where they are,
the blocks up to the steered one are: it is that block's output that the rows' edits change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from steerkit.block_output import hidden_of, with_hidden
from steerkit.kv import Prefix

if TYPE_CHECKING:
    from torch import Tensor, nn

    from steerkit.model import LanguageModel
    from steerkit.steering import Edit, Steering

TOLERANCE = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 6e-2}  # of the largest logit


@dataclass(frozen=True)
class Prefilled:
    """What n rows' prompts left.

    Attributes:
        logits: [n, V] after each row's last prompt token.
        mask: [n, P] 1 where the left-padded prompts have a token.
        layers: keys and values of every layer.
    """

    logits: Tensor
    mask: Tensor
    layers: list[Prefix]


def prefill(
    lm: LanguageModel, prompts: Sequence[Sequence[int]], edits: Sequence[Edit | None], rows: Sequence[int],
    steering: Steering,
) -> Prefilled:  # fmt: skip
    """Read the rows' prompts.

    Args:
        rows: the rows' numbers in `steering`, whose edits these are.
    """
    import torch

    lone: dict[tuple[int, ...], int] = {}  # prompt → place
    units: dict[tuple[Any, ...], int] = {}  # prompt and what is done to it → place
    of_row, firsts = [], []
    for prompt, edit, row in zip(prompts, edits, rows, strict=True):
        unit = lone.setdefault(tuple(prompt), len(lone)), _signature(edit)
        if unit not in units:
            firsts.append(row)
        of_row.append(units.setdefault(unit, len(units)))
    index = torch.tensor(of_row, device=lm.device)
    of_unit = torch.tensor([place for place, _ in units], device=lm.device)
    ids, mask = left_pad(list(lone), lm.device)
    edited = {done[1] for _, done in units if done is not None}
    if not edited:
        found, to = _read(lm, ids, mask, [None] * len(lone), steering), of_unit[index]
    elif len(units) == len(lone) or not _shareable(lm, ids, mask, of_unit, firsts, min(edited), steering):
        found, to = _read(lm, ids[of_unit], mask[of_unit], firsts, steering), index
    else:
        logits, lower, upper = _read_shared(lm, ids, mask, of_unit, firsts, min(edited), steering)
        layers = _prefixes(lower, of_unit[index])[: len(lower.layers)] + _prefixes(upper, index)[len(lower.layers) :]
        return Prefilled(logits[index], mask[of_unit[index]], layers)
    logits, cache = found
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


def _signature(edit: Edit | None) -> tuple[Any, ...] | None:
    """What an edit does to a prompt; None for nothing."""
    if edit is None or edit.norm == 0 or edit.tokens == "generated":
        return None
    return id(edit.steerer), edit.layer, edit.norm, id(edit.direction), edit.key


def _read(
    lm: LanguageModel, ids: Tensor, mask: Tensor, rows: Sequence[int | None], steering: Steering
) -> tuple[Tensor, Any]:
    """[n, V] last logits, and the cache."""
    from transformers import DynamicCache

    cache = DynamicCache()  # whole layers, also where a window slides: the mask cuts it
    steering.assign(rows, "prompt")
    out = lm.model(
        input_ids=ids, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0), past_key_values=cache,
        use_cache=True, logits_to_keep=1,
    )  # fmt: skip
    return out.logits[:, -1], cache


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
    handle = lm.blocks[layer].register_forward_hook(stop)
    try:
        lm.decoder(
            input_ids=ids, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
            past_key_values=lower, use_cache=True,
        )  # fmt: skip
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


_trusted: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def _shareable(
    lm: LanguageModel, ids: Tensor, mask: Tensor, of_unit: Tensor, rows: Sequence[int], layer: int, steering: Steering
) -> bool:
    """Whether a model's blocks hand on hidden states and nothing else: tried once a model, on the first two units.

    Models whose later blocks read keys of earlier ones, or more than one stream, fail it and are read in full.
    """
    if lm.decoder not in _trusted:
        counted, two = dict(steering.steered_at), of_unit[:2]
        whole, _ = _read(lm, ids[two], mask[two], rows[:2], steering)
        if not bool(whole.isfinite().all()):  # an edit that breaks its row says nothing of the model
            steering.steered_at = counted
            return False
        _trusted[lm.decoder] = False
        with suppress(Exception):  # whatever such a model makes of it
            parts, _, _ = _read_shared(lm, ids, mask, two, rows[:2], layer, steering)
            error = float((parts - whole).abs().max() / whole.abs().max())
            _trusted[lm.decoder] = error <= TOLERANCE[str(whole.dtype).removeprefix("torch.")]
        steering.steered_at = counted
    return _trusted[lm.decoder]
