"""Cross-entropy on responses."""

from __future__ import annotations

from steerkit.models.language_model import LanguageModel
from steerkit.training.contract import Batch, Loss, Objective
from steerkit.training.masks import IGNORED


class Response(Objective):
    """−log p of the learned tokens (response and end of turn) in float32, mean over the accumulated batch's tokens.

    Logits of other positions go into no sum: only the learned ones are upcast.
    """

    def loss(self, lm: LanguageModel, batch: Batch) -> Loss:
        import torch

        logits = lm.model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).logits
        targets = batch.labels[:, 1:].to(logits.device)
        learned = targets != IGNORED
        found = logits[:, :-1][learned].float()
        total = torch.nn.functional.cross_entropy(found, targets[learned], reduction="sum")
        return Loss(total / batch.tokens)
