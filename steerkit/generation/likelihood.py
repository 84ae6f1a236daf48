"""Log-likelihood of texts under a model, read in one pass each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steerkit.errors import SteerkitError
from steerkit.generation.breaks import first_break
from steerkit.models.adapter_layout import adapter_state
from steerkit.models.limits import check_ids, check_lengths

if TYPE_CHECKING:
    from steerkit.models.language_model import LanguageModel

ROOM = 2**26
"""Logits held at once, in numbers: 256 MiB in float32."""


@dataclass(frozen=True)
class ScoredText:
    """A prompt's ids and those of the text whose likelihood is asked for."""

    prompt_ids: Sequence[int]
    ids: Sequence[int]


def log_likelihoods(
    lm: LanguageModel, texts: Sequence[ScoredText], *, room: int = ROOM
) -> Iterator[tuple[list[int], list[float]]]:
    """Batch by batch: places in `texts`, and Σ_t log p(id_t | prompt, earlier ids) of each, in nats.

    Texts of like length share a batch, padded on the right; of equal length where the model can't be padded.

    Raises:
        SteerkitError: a likelihood is not finite (the text's number is named).
    """
    import torch

    whole = [[*text.prompt_ids, *text.ids] for text in texts]
    check_ids(lm, whole)
    check_lengths(lm, max(map(len, whole), default=0), "a prompt with its text")
    width = lm.model.get_output_embeddings().weight.shape[0]
    lengths = [len(ids) for ids in whole]
    order = sorted(range(len(texts)), key=lambda i: lengths[i])
    while order:
        longest = lengths[order[-1]]
        size = max(1, room // (longest * width))
        if lm.batches != "padded":
            alike = sum(lengths[place] == longest for place in order) if lm.batches == "equal lengths" else 1
            size = min(size, alike)
        order, places = order[:-size], order[-size:]
        ids = torch.zeros(len(places), longest, dtype=torch.long)
        own = torch.zeros(len(places), longest, dtype=torch.bool)
        for row, place in enumerate(places):
            ids[row, : lengths[place]] = torch.tensor(whole[place])
            own[row, len(texts[place].prompt_ids) : lengths[place]] = True
        with torch.inference_mode(), adapter_state(lm):
            logits = lm.model(input_ids=ids.to(lm.device), use_cache=False).logits[:, :-1]
            # cross_entropy in place of log_softmax and gather: no second copy of the logits
            loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1).float(), ids[:, 1:].flatten().to(logits.device), reduction="none"
            )
        found = -(loss.cpu().double().reshape(len(places), -1) * own[:, 1:]).sum(1)
        values = found.tolist()
        for place, value in zip(places, values, strict=True):
            if not math.isfinite(value):
                where = first_break(lm, texts[place].prompt_ids, texts[place].ids, ())
                raise SteerkitError(
                    f"{lm.name}: the log-likelihood of text {place} is {value}; it breaks {where}. Half "
                    "precision overflows like this: load the model in float32 or bfloat16"
                )
        yield places, values
