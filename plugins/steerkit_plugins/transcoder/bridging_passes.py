"""A model's forward in two halves, the decoder and what makes logits of its states.

Shapes: B rows, T tokens, H width, V vocabulary, N positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch

from steerkit.errors import SteerkitError
from steerkit.models.block_output import hidden_of, with_hidden
from steerkit.units.continued import begun_at, can_begin_at, kept_outputs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from steerkit.models.language_model import LanguageModel

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

    def check(self) -> None:
        """Raises: SteerkitError: the two halves don't make the model's own logits; tried once a model."""
        with torch.no_grad():
            whole = self.lm.model(input_ids=self.ids, attention_mask=self.mask, use_cache=False).logits
            states = self.states()
            parts = self.logits(states[0]) if states.shape[:2] == whole.shape[:2] else states
            if parts.shape != whole[0].shape or not torch.allclose(parts, whole[0], rtol=1e-2, atol=1e-2):
                raise SteerkitError(
                    f"{self.lm.name}: its head can't be run apart from its blocks, which objective bridging does"
                )


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


_begins: WeakKeyDictionary[nn.Module, tuple[Tensor, Outputs]] = WeakKeyDictionary()


def can_begin(halves: Halves, first: int) -> bool:
    """Whether a pass may begin at a block, with what the blocks below it gave. Tried once a model and block."""
    lm = halves.lm
    with torch.no_grad():
        if lm.decoder not in _begins:
            halves.check()
            ids, outputs = halves.ids[:1, : int(halves.mask[0].sum())][:, :32], dict[int, Any]()
            with kept_outputs(lm, set(range(lm.depth)), outputs):
                lm.model(input_ids=ids, use_cache=False)
            _begins[lm.decoder] = (ids, outputs)
        return can_begin_at(lm, first, *_begins[lm.decoder])
