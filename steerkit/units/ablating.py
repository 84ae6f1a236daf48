"""What a model loses without some of its units: KL divergence and cross-entropy per token (arXiv 2511.06739).

Blocks below the first one with a zeroed unit give what they gave in the full model, and are computed once for all sets.
With L blocks and as many sets for each that saves a factor of 2 L / (L + 1) of the blocks' work at most. The head runs
at counted positions alone, and short rows of several sets share a forward.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from steerkit.errors import SteerkitError
from steerkit.extraction.batching import BATCH_TOKENS, Queue, comfortable_tokens
from steerkit.models.adapter_layout import adapter_state
from steerkit.models.limits import check_ids, check_lengths
from steerkit.models.units import Unit, UnitGroup, units_in
from steerkit.units.ablated_batch import AblatedBatch
from steerkit.units.divergence import Average, CountedText, Direction, mean, room_of, tokens_of_texts
from steerkit.units.zeroing import zeroing

if TYPE_CHECKING:
    from steerkit.models.language_model import LanguageModel

log = logging.getLogger("steerkit")


@dataclass(frozen=True)
class Ablated:
    """Sums over the counted tokens of N texts for S sets, in nats.

    Attributes:
        kl: [S, N] float64 KL divergence of the full model's and the ablated one's predictions.
        ce: [S, N] float64 cross-entropy of the text under the ablated model.
        full: [N] float64 the same under the full model.
        counts: [N] counted tokens.
        noise: [N] KL of the full model against itself, in forwards with as many rows as ablations have at most: what
            rounding alone gives. In bfloat16 it can be more than what weak units do. NaN where not asked for.
        whole: blocks that a forward could not begin at, as the family hands on more than hidden states there.
    """

    kl: np.ndarray
    ce: np.ndarray
    full: np.ndarray
    counts: np.ndarray
    noise: np.ndarray
    whole: tuple[int, ...] = ()

    def mean_kl(self, average: Average = "per_sequence") -> np.ndarray:
        """[S] nats per token."""
        return mean(self.kl, self.counts, average)

    def mean_ce(self, average: Average = "per_sequence") -> np.ndarray:
        """[S] nats per token."""
        return mean(self.ce, self.counts, average)


def ablate(
    lm: LanguageModel,
    groups: Sequence[UnitGroup],
    texts: Sequence[CountedText],
    sets: Sequence[frozenset[Unit]],
    *,
    direction: Direction = "full || ablated",
    batch_tokens: int = BATCH_TOKENS,
    room: int | None = None,
    with_noise: bool = False,
    on_batch: Callable[[int, int], None] | None = None,
) -> Ablated:
    """KL divergence and cross-entropy for each set of zeroed units, on each text.

    Args:
        sets: units that are zeroed together; the empty set is the full model, with a KL of exactly 0.
        direction: of the KL; the author's code computes "full || ablated".
        batch_tokens: padded tokens of a forward, at most (or one text).
        room: logits held at once, in numbers; what the device takes well when left out.
        with_noise: whether the full model is held against itself, too: a forward more a batch of texts.
        on_batch: called as (done, in all), in texts times sets.

    Raises:
        SteerkitError: an unknown unit, ids that the model hasn't, or predictions that are not finite.
    """
    import torch

    _check(lm, groups, texts, sets)
    total = len(sets) * len(texts)
    first = [min((unit.layer for unit in own), default=0) for own in sets]
    numbers = {id(text): number for number, text in enumerate(texts)}
    kl, ce, full = np.zeros((len(sets), len(texts))), np.zeros((len(sets), len(texts))), np.zeros(len(texts))
    noise, whole = np.full(len(texts), np.nan), set[int]()
    room = room or room_of(lm)
    queue, done = Queue(lm, list(texts), tokens_of_texts(lm, batch_tokens, room)), 0
    while queue.left:
        with queue.next() as [batch], torch.inference_mode(), adapter_state(lm), zeroing(groups) as zeroed:
            places = [numbers[id(text)] for text in batch]
            forwards = AblatedBatch(lm, batch, zeroed, direction)
            full[places] = forwards.read({at - 1 for at in first if at})
            kl[:, places], ce[:, places] = 0.0, full[places]
            begins = {at: forwards.begins(at) for at in set(first)}
            whole |= {at for at, begin in begins.items() if begin != at}
            order = sorted((number for number, own in enumerate(sets) if own), key=lambda n: begins[first[n]])
            cuts = forwards.cuts([begins[first[n]] for n in order], comfortable_tokens(lm, batch_tokens), room)
            if with_noise:
                noise[places] = forwards.noise(max(map(len, cuts), default=0))
            for own in cuts:
                chosen = [order[n] for n in own]
                found = forwards.ablated([sets[n] for n in chosen], begins[first[chosen[0]]])
                kl[np.ix_(chosen, places)], ce[np.ix_(chosen, places)] = found
                if on_batch:
                    on_batch(done + len(batch) * own.stop, total)
        if not queue.ran_out:
            done += len(batch) * len(sets)
    if on_batch:
        on_batch(total, total)
    if whole:
        log.warning(
            "%s: its blocks hand on more than hidden states (at block %s); sets of units whose first is there have "
            "whole forwards",
            lm.name,
            ", ".join(map(str, sorted(whole))),
        )
    _check_finite(lm, texts, sets, full, ce, kl)
    return Ablated(kl, ce, full, np.array([text.count for text in texts]), noise, tuple(sorted(whole)))


def _check(
    lm: LanguageModel, groups: Sequence[UnitGroup], texts: Sequence[CountedText], sets: Sequence[frozenset[Unit]]
) -> None:
    """Raises: SteerkitError for unknown units, no texts, and ids or positions that the model hasn't."""
    unknown = sorted(frozenset().union(*sets) - set(units_in(groups)))
    if unknown:
        raise SteerkitError(f"{lm.name}: has no units {', '.join(map(str, unknown[:4]))}, which are to be ablated")
    if not texts:
        raise SteerkitError(f"{lm.name}: there is no text to measure what units do on")
    check_ids(lm, [text.ids for text in texts])
    longest = max(texts, key=lambda text: len(text.ids))
    check_lengths(lm, len(longest.ids), longest.name)


def _check_finite(
    lm: LanguageModel,
    texts: Sequence[CountedText],
    sets: Sequence[frozenset[Unit]],
    full: np.ndarray,
    *found: np.ndarray,
) -> None:
    """Raises: SteerkitError for values that are not finite; a text and what was ablated are named."""
    hint = "half precision overflows like this: load the model in float32 or bfloat16"
    if broken := np.flatnonzero(~np.isfinite(full)).tolist():
        raise SteerkitError(f"{lm.name}: its predictions on {texts[broken[0]].name} are not finite; {hint}")
    for values in found:
        for number, place in np.argwhere(~np.isfinite(values)).tolist()[:1]:
            units = ", ".join(map(str, sorted(sets[number])[:4]))
            raise SteerkitError(
                f"{lm.name}: without {units} its predictions on {texts[place].name} are not finite; {hint}"
            )
