"""A model's own cache for a group of rows of one length: recurrent states, windows, and whatever else it keeps.

Nothing in it can be padded, cut or moved by columns; whole rows can be copied and dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from steerkit.models.supported import cache_argument

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from steerkit.generation.prefilled import Prefilled
    from steerkit.interventions.steering import Steering
    from steerkit.models.language_model import LanguageModel


def new_cache(lm: LanguageModel) -> Any:
    """An empty cache: keys and values in whole layers where rows are padded, else the kind that the model asks for."""
    from transformers import DynamicCache

    if lm.batches == "padded":
        return DynamicCache()  # whole layers, also where a window slides: the mask cuts it
    return DynamicCache(config=lm.config)


def next_logits(
    lm: LanguageModel, ids: Tensor, position: Tensor, mask: Tensor | None, cache: Any, steering: Steering
) -> Tensor:
    """[B, V] logits after the last of these tokens [B, T], which the cache takes in.

    Args:
        position: [B, T].
        mask: [B, columns] 1 where the cache or `ids` have a token; None where all have.
    """
    steering.position = position  # some models are not given it
    out = lm.model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=position,
        use_cache=True,
        logits_to_keep=1,
        **{cache_argument(lm): cache},
    )
    logits: Tensor = out.logits[:, -1]
    return logits


def select(cache: Any, rows: Tensor) -> None:
    """The cache of these rows, in this order; a row may come several times."""
    for layer in cache.layers:
        layer.reorder_cache(rows)


class GroupCache:
    """The cache of rows that began together. The interface is `steerkit.generation.line_cache.LineCache`'s, without
    taking lines over.

    Attributes:
        hf: what the model is given.
    """

    def __init__(self, longest: int) -> None:
        """Args:
        longest: tokens that a row may have, prompt and generated.
        """
        self.hf: Any = None
        self.longest = longest

    def put(self, lines: Sequence[int], prompts: Sequence[int], read: Prefilled) -> None:
        """A group whose prompts were read begins."""
        self.hf = read.cache

    def spoil(self, line: int) -> None:
        """A row that broke takes its own states along; no other row takes its line over."""

    full = False  # it grows

    def step(self) -> None:
        """No mask: no row has padding."""

    def trim(self, occupied: Sequence[int]) -> None:
        """Nothing is cut off."""

    def keep(self, lines: Tensor) -> None:
        """Only these rows stay."""
        select(self.hf, lines)

    def sizes(self) -> Iterator[tuple[torch.device, int]]:
        """Device and bytes of each part, at the rows' greatest length."""
        for layer in self.hf.layers:
            for tensor in (getattr(layer, "keys", None), getattr(layer, "values", None)):
                if tensor is not None and tensor.dim() == 4:
                    window = getattr(layer, "sliding_window", None) or self.longest
                    columns = max(min(self.longest, window), tensor.shape[2])
                    yield tensor.device, tensor.nbytes * columns // max(tensor.shape[2], 1)
            for states in (getattr(layer, "conv_states", {}), getattr(layer, "recurrent_states", {})):
                yield from ((state.device, state.nbytes) for state in states.values() if state is not None)
