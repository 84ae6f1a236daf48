"""A model's own probability that the next sentence has a label: of the tokens that such sentences begin with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from steerkit.errors import SteerkitError
from steerkit.extraction.batching import BATCH_TOKENS, Queue
from steerkit.models.adapter_layout import adapter_state
from steerkit.models.limits import check_items

if TYPE_CHECKING:
    from torch import Tensor, nn

    from steerkit.data.trace import Item
    from steerkit.models.language_model import LanguageModel

ROOM = 2**24
"""Logits held at once, in numbers: 64 MiB in float32, of which a softmax makes a copy."""


def first_token_shares(items: Iterable[Item], label: str) -> dict[int, float]:
    """Token id → share of the spans beginning with it that have the label; ids without any are left out.

    Args:
        items: traces with all their spans, and the ids that the model reads.
    """
    all_, own = Counter[int](), Counter[int]()
    for item in items:
        for span in item.spans:
            token = item.ids[span.first]
            all_[token] += 1
            own[token] += span.label == label
    return {token: own[token] / all_[token] for token in sorted(own) if own[token]}


def next_token_sums(
    lm: LanguageModel,
    items: Sequence[Item],
    weights: Mapping[int, float],
    *,
    batch_tokens: int = BATCH_TOKENS,
    room: int = ROOM,
    on_batch: Callable[[int, int], None] | None = None,
) -> dict[str, np.ndarray]:
    """Σ_v weight(v) · p(v | the text up to a token), for every token.

    The decoder reads each text once; the LM head, with whatever the model does to logits, follows on some tokens at a
    time, so that the logits of a whole text are never held. Softmax is in float32.

    Args:
        weights: by token id; 0 where left out.
        room: logits held at once, in numbers.
        on_batch: called as (batches done, batches in all).

    Returns:
        Trace id → [T] float32.

    Raises:
        SteerkitError: a sum is not finite, ids or positions that the model hasn't, a model whose head can't be run by
            itself, or a trace that memory doesn't hold even alone.
    """
    import torch

    check_items(lm, items)
    queue, found = Queue(lm, items, batch_tokens), dict[str, np.ndarray]()
    ids = torch.tensor(list(weights), dtype=torch.long)
    shares = torch.tensor(list(weights.values()), dtype=torch.float32)
    while queue.left:
        with queue.next() as [batch], torch.inference_mode(), adapter_state(lm):
            longest = max(len(item.ids) for item in batch)
            padded = torch.zeros(len(batch), longest, dtype=torch.long)
            inside = torch.zeros(len(batch), longest, dtype=torch.bool)
            for row, item in enumerate(batch):
                padded[row, : len(item.ids)] = torch.tensor(item.ids)
                inside[row, : len(item.ids)] = True
            out = lm.decoder(input_ids=padded.to(lm.device), use_cache=False)
            own = out.last_hidden_state[inside.to(out.last_hidden_state.device)]
            sums = [
                _summed(logits, ids, shares) for logits in _logits(lm, out, own, max(room // lm.config.vocab_size, 1))
            ]
        if queue.ran_out:
            continue
        values = torch.cat(sums).numpy()
        for item, part in zip(batch, np.split(values, np.cumsum([len(item.ids) for item in batch])[:-1]), strict=True):
            if not np.isfinite(part).all():
                raise SteerkitError(
                    f"{lm.name}: the probabilities after token {int(np.argmin(np.isfinite(part)))} of {item.name} are "
                    "not finite; half precision overflows like this: use bf16 or float32"
                )
            found[item.trace.id] = part
        if on_batch:
            on_batch(queue.done, queue.count)
    return found


def _summed(logits: Tensor, ids: Tensor, shares: Tensor) -> Tensor:
    """[N, V] → [N] on the CPU."""
    logged = logits.float().log_softmax(dim=-1)
    found: Tensor = (logged[:, ids.to(logged.device)].exp() @ shares.to(logged.device)).cpu()
    return found


def _logits(lm: LanguageModel, out: Any, hidden: Tensor, tokens: int) -> Iterator[Tensor]:
    """[N, V] of hidden states [N, H], some tokens at a time, by the model's own forward around its decoder.

    Some models scale or cap their logits: to take the head's weights alone would miss that.
    """
    import torch

    for part in hidden.split(tokens):
        with _answering(lm.decoder, _with_states(out, part[None])) as asked:
            blank = torch.zeros(1, len(part), dtype=torch.long, device=lm.device)
            logits: Tensor = lm.model(input_ids=blank, use_cache=False).logits
        if not asked:
            raise SteerkitError(
                f"{lm.name}: runs its blocks in another place than its decoder; its head is out of reach"
            )
        yield logits[0]


def _with_states(out: Any, hidden: Tensor) -> Any:
    """A decoder's output with other hidden states."""
    made = copy(out)
    made.last_hidden_state = hidden
    return made


@contextmanager
def _answering(decoder: nn.Module, answer: Any) -> Iterator[list[bool]]:
    """Inside, the decoder answers this, and the list has an entry for each time that it was asked."""
    asked: list[bool] = []
    before = vars(decoder).get("forward")

    def forward(*args: Any, **kwargs: Any) -> Any:
        asked.append(True)
        return answer

    decoder.forward = forward
    try:
        yield asked
    finally:
        del decoder.forward
        if before is not None:  # accelerate and torch.compile put one there
            decoder.forward = before
