"""KL divergence between two models on the same texts: the whole effect, which parts of it are held against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from steerkit.errors import SteerkitError
from steerkit.extraction.batching import BATCH_TOKENS, Queue
from steerkit.models.adapter_layout import adapter_state
from steerkit.models.limits import check_ids
from steerkit.units.ablated_batch import TextBatch
from steerkit.units.continued import logits_at
from steerkit.units.divergence import CountedText, log_probabilities, position_sums, room_of, tokens_of_texts

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.models.language_model import LanguageModel


def kl_between(
    first: LanguageModel,
    second: LanguageModel,
    texts: Sequence[tuple[CountedText, CountedText]],
    *,
    batch_tokens: int = BATCH_TOKENS,
    on_batch: Callable[[int, int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """[N] sums over counted tokens of KL(first ‖ second), and of the second's cross-entropy of the text, in nats.

    An adapter's base is the same model with `adapter` off.

    Args:
        texts: each as the first model reads it, and as the second does; of one length, with one mask.
        on_batch: called as (texts done, in all).

    Raises:
        SteerkitError: the models' vocabularies differ, ids that a model hasn't, or predictions that are not finite.
    """
    import torch

    for lm, side in ((first, 0), (second, 1)):
        check_ids(lm, [pair[side].ids for pair in texts])
    theirs = {id(own): other for own, other in texts}
    numbers = {id(own): number for number, (own, _) in enumerate(texts)}
    kl, ce = np.zeros(len(texts)), np.zeros(len(texts))
    tokens = min(tokens_of_texts(lm, batch_tokens, room_of(lm)) for lm in (first, second))
    queue, done = Queue(first, [own for own, _ in texts], tokens), 0
    while queue.left:
        with queue.next() as [batch], torch.inference_mode():
            mine = TextBatch(first, batch)
            other = TextBatch(second, [theirs[id(text)] for text in batch])
            reference, changed = _logits(first, mine), _logits(second, other)
            if reference.shape != changed.shape:
                raise SteerkitError(
                    f"{first.name} predicts {reference.shape[1]:,} tokens and {second.name} {changed.shape[1]:,}: "
                    "there is no KL divergence between them"
                )
            changed = changed.to(reference.device)
            reference = log_probabilities(reference)
            at = torch.arange(len(reference), device=reference.device)
            found = position_sums(changed, at, reference, at, other.targets.to(at.device), "full || ablated")
            places = [numbers[id(text)] for text in batch]
            kl[places], ce[places] = (mine.summed(values)[0] for values in found)
        if not queue.ran_out:
            done += len(batch)
        if on_batch:
            on_batch(done, len(texts))
    if not (np.isfinite(kl).all() and np.isfinite(ce).all()):
        raise SteerkitError(
            f"{first.name} and {second.name}: predictions are not finite; half precision overflows like this: load the "
            "models in float32 or bfloat16"
        )
    return kl, ce


def _logits(lm: LanguageModel, batch: TextBatch) -> Tensor:
    """[M, V] at the counted positions."""
    with adapter_state(lm):
        logits = logits_at(lm, batch.ids, batch.places).flatten(0, 1)
    return logits[batch.at.to(logits.device)]
