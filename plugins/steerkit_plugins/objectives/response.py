"""Cross-entropy on responses."""

from __future__ import annotations

from steerkit.models.language_model import LanguageModel
from steerkit.training.contract import Batch, Loss, Objective
from steerkit.training.masks import IGNORED


class Response(Objective):
    """−log p of the learned tokens (response and end of turn) in float32, mean over the accumulated batch's tokens."""

    def loss(self, lm: LanguageModel, batch: Batch) -> Loss:
        from torch.nn.functional import cross_entropy, pad

        logits = lm.model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).logits
        targets = pad(batch.labels[:, 1:], (0, 1), value=IGNORED).to(logits.device)  # of logits that are not copied
        total = cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
        return Loss(total / batch.tokens)
