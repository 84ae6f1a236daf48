"""The loss on rows that are not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from steerkit.training.batches import as_dataset, batch_of, collator
from steerkit.training.contract import Objective
from steerkit.training.masks import Encoded

if TYPE_CHECKING:
    from steerkit.models.language_model import LanguageModel


def mean_loss(lm: LanguageModel, rows: Sequence[Encoded], objective: Objective, batch_size: int) -> float | None:
    """Loss per learned token, in eval mode and without gradients; None where there are no rows."""
    import torch

    if not rows:
        return None

    collate, dataset = collator(lm.tokenizer), as_dataset(rows)
    tokens, found = sum(row.learned for row in rows), 0.0
    lm.model.eval()
    with torch.no_grad():
        for begin in range(0, len(dataset), batch_size):
            tensors = {k: v.to(lm.device) for k, v in collate(dataset[begin : begin + batch_size]).items()}
            found += float(objective.loss(lm, batch_of(tensors, tokens)).total)
    return found
