"""A model's forward in two halves, the decoder and what makes logits of its states.

Shapes: B rows, T tokens, H width, V vocabulary, N positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch

from steerkit.errors import SteerkitError
from steerkit.generation.prefill import TOLERANCE
from steerkit.models.block_output import hidden_of, with_hidden
from steerkit.models.language_model import LanguageModel
from steerkit.models.memory import out_of_memory
from steerkit.units.continued import begun_at, can_begin_at, kept_outputs

if TYPE_CHECKING:
    from torch import Tensor, nn
Outputs = dict[int, Any]
"""Block → what it put out, [B, T, H]."""


class Halves:
    """Runs the decoder apart from the head, each as the model itself does (scales, caps, and autocast around both)."""

    def __init__(self, lm: LanguageModel, ids: Tensor, mask: Tensor) -> None:
        self.lm, self.ids, self.mask = lm, ids, mask
        self._output: Any = None  # the decoder's last one, without its states

    def states(self, keep: Outputs | None = None, first: int = 0, below: Outputs | None = None) -> Tensor:
        """[B, T, H] that the head reads.

        Args:
            keep: takes what every block put out.
            first: block that the pass begins at; 0 is a whole one.
            below: what the blocks below `first` put out.
        """
        found: list[Tensor] = []

        def without_head(run: Callable[..., Any]) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                output = run(*args, **kwargs)
                found.append(hidden_of(output))
                self._output = with_hidden(output, found[0][:, :0])
                return self._output

            return forward

        layers = set() if keep is None else set(range(self.lm.depth))
        with (
            kept_outputs(self.lm, layers, {} if keep is None else keep),
            begun_at(self.lm, first, below or {}, 1),
            _replaced(self.lm.decoder, without_head),
        ):
            self.lm.model(input_ids=self.ids, attention_mask=self.mask, use_cache=False)
        return found[0]

    def logits(self, states: Tensor) -> Tensor:
        """[N, H] states → [N, V] logits, after a pass of `states`."""

        def given(run: Callable[..., Any]) -> Callable[..., Any]:
            return lambda *args, **kwargs: with_hidden(copy(self._output), states[None])

        with _replaced(self.lm.decoder, given):
            found: Tensor = self.lm.model(input_ids=self.ids[:1, :1].expand(1, len(states)), use_cache=False).logits[0]
        return found


@contextmanager
def _replaced(module: nn.Module, change: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Inside, a module has another forward, made of its own."""
    before = module.__dict__.get("forward")
    module.forward = change(module.forward)
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


PROBE_TOKENS = 32
"""Of the row that a model is tried with."""
_begins: WeakKeyDictionary[nn.Module, frozenset[int]] = WeakKeyDictionary()


def halves_of(lm: LanguageModel, ids: Tensor, mask: Tensor) -> Halves:
    """Raises: SteerkitError: the two halves don't make the model's own logits, which is tried once a model."""
    if lm.decoder not in _begins:
        _begins[lm.decoder] = _probe(_plain(lm), ids[:1, : int(mask[0].sum())][:, :PROBE_TOKENS])
    return Halves(lm, ids, mask)


def can_begin(lm: LanguageModel, first: int) -> bool:
    """Whether a pass may begin at a block, with what the blocks below it gave; known after `halves_of`."""
    return first in _begins[lm.decoder]


def _probe(lm: LanguageModel, ids: Tensor) -> frozenset[int]:
    """The blocks that a pass may begin at, all tried now: later, other weights would give other outputs.

    Args:
        ids: [1, T] without padding.
    """
    outputs: Outputs = {}
    halves = Halves(lm, ids, torch.ones_like(ids))
    with torch.no_grad():
        whole = lm.model(input_ids=ids, use_cache=False).logits[0]
        states = halves.states(outputs)[0]
        try:
            difference = float((halves.logits(states) - whole).abs().max() / whole.abs().max())
        except Exception as error:  # whatever such a model makes of it
            if out_of_memory(error):
                raise
            difference = math.inf
        if not difference <= TOLERANCE[str(whole.dtype).removeprefix("torch.")]:
            raise SteerkitError(
                f"{lm.name}: its head can't be run apart from its blocks, as objective bridging does it so that memory "
                "holds the logits of long texts"
            )
        return frozenset(first for first in range(1, lm.depth) if can_begin_at(lm, first, ids, outputs))


def _plain(lm: LanguageModel) -> LanguageModel:
    """The model without what is around its forward (PEFT, and mixed precision, in which parts differ by roundings)."""
    return LanguageModel(lm.name, lm.transformer, lm.tokenizer)
