"""Does an engine draw the texts that transformers would? Each of its draws, beside logits / T + noise, filtered."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from steerkit.generation.engine import Engine
from steerkit.generation.parity import Parity, reading
from steerkit.generation.sampling import STREAM, Sampling
from steerkit.generation.stream import Generated, GenerationRow, end_ids
from steerkit.stats.noise import gumbel

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.models.language_model import LanguageModel


def compare_sampled(
    lm: LanguageModel,
    engine: Engine,
    role: str,
    rows: Sequence[GenerationRow],
    name: str,
    *,
    sampling: Sampling,
    max_new_tokens: int,
    tolerance: float,
) -> Parity:
    """The engine's sampled texts, each draw held against transformers' logits for the same tokens before it.

    Args:
        name: of what is compared.
        tolerance: by how much a logit may differ, in nats; a draw that a smaller difference explains is a tie.
    """
    texts = engine.generate(
        role, rows, max_new_tokens=max_new_tokens, sampling=sampling, batch_size=len(rows), progress=lambda done: None
    )
    same = ties = 0
    for row, text in zip(rows, texts, strict=True):
        lead = _worst_lead(lm, row, text, sampling, max_new_tokens, 2 * tolerance)
        same += lead <= 2 * tolerance / sampling.temperature
        ties += 0 < lead <= 2 * tolerance / sampling.temperature
    return Parity(name, len(rows), None, None, same, ties, None, None, tolerance)


def _worst_lead(
    lm: LanguageModel, row: GenerationRow, text: Generated, sampling: Sampling, max_new_tokens: int, slack: float
) -> float:
    """By how much, at worst, a token that may be drawn for sure leads the one drawn, which may be drawn perhaps."""
    import torch

    logits, _ = reading(lm, row, text, max_new_tokens)
    scaled = logits / sampling.temperature
    steps = torch.arange(len(scaled), device=scaled.device)
    key = torch.tensor([row.key], device=scaled.device)
    scores = scaled + gumbel(key, steps, stream=STREAM, size=scaled.shape[-1])
    slack /= sampling.temperature
    sure = scores.masked_fill(~kept_if_shifted(scaled, sampling, -slack), -math.inf)
    maybe = scores.masked_fill(~kept_if_shifted(scaled, sampling, slack), -math.inf)
    found = maybe.gather(1, torch.tensor(text.ids, device=scaled.device, dtype=torch.long)[:, None])[:, 0]
    if text.finished:  # which of the end tokens it was is not told
        ends = [i for i in end_ids(lm) if 0 <= i < scaled.shape[-1]]
        found = torch.cat([found, maybe[-1:, ends].amax(-1)])
    return float((sure.amax(-1) - found).max()) if len(found) else 0.0


def kept_if_shifted(scaled: Tensor, sampling: Sampling, shift: float) -> Tensor:
    """[n, V] the tokens that the filters would keep, were each one's own logit / T higher by `shift`."""
    import torch

    ordered = scaled.sort(-1, descending=True).values
    itself = int(shift < 0)  # a token where it was is no likelier one
    above = torch.searchsorted(-ordered, -(scaled + shift)) - itself  # how many are likelier
    keep = torch.ones_like(scaled, dtype=torch.bool)
    if sampling.top_k is not None:
        keep &= above < sampling.top_k
        last = ordered[:, min(sampling.top_k, ordered.shape[-1]) - 1, None]
        ordered = ordered.masked_fill(ordered < last, -math.inf)
    if sampling.top_p is not None and sampling.top_p < 1:
        mass = torch.nn.functional.pad(ordered.double().softmax(-1).cumsum(-1), (1, 0))
        own = scaled.double().softmax(-1) if itself else 0
        keep &= (mass.gather(-1, above + itself) - own) * math.exp(-shift) < sampling.top_p
    if sampling.min_p:
        keep &= scaled + shift >= ordered[:, :1] + math.log(sampling.min_p)
    return keep
