"""What a transcoder's features add to the logits of words that follow, read from texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from steerkit.units.active_store import ActiveStore
from steerkit_plugins.transcoder.units import transcoder_groups

if TYPE_CHECKING:
    from steerkit.models.language_model import LanguageModel

UNITS = 4096
"""Features whose numbers are in memory at once."""


def sums_at(store: ActiveStore, marked: Mapping[str, np.ndarray]) -> np.ndarray:
    """[U] float64 sums of features over marked tokens.

    Args:
        marked: trace → [T] bool; tokens that the store has no rows of don't count.
    """
    parts = np.split(store.tokens, np.cumsum(store.lengths)[:-1])
    rows = np.concatenate([marked[trace][places] for trace, places in zip(store.traces, parts, strict=True)])
    found = np.zeros(store.units)
    for first, end in store.blocks(UNITS):
        unit, row, value = store.entries(first, end)
        own = rows[row]
        found[first:end] = np.bincount(unit[own] - first, weights=value[own].astype(np.float64), minlength=end - first)
    return found


def toward(lm: LanguageModel, counts: Mapping[int, int]) -> np.ndarray:
    """[U] s W_dec · u of each feature, u the mean unembedding of some tokens less that of all tokens.

    That is how much a feature with the number 1 adds to these tokens' logits above the vocabulary's mean, but for the
    final norm and what later blocks make of it (direct contribution).

    Args:
        counts: token id → how often it counts; 0 for every feature where there is none.
    """
    import torch

    groups = transcoder_groups(lm)
    if not counts:
        return np.zeros(sum(group.count for group in groups))
    head = lm.model.get_output_embeddings().weight.detach().float()
    weights = torch.tensor(list(counts.values()), dtype=torch.float32, device=head.device)
    ids = torch.tensor(list(counts), device=head.device)
    u = (weights / weights.sum()) @ head[ids] - head.mean(dim=0)
    parts = [group.writes @ u.to(group.writes.device) for group in groups]
    return torch.cat([part.cpu() for part in parts]).double().numpy()
