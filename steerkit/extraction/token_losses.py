"""The loss of a batch's response tokens and its gradient by the logits, some tokens at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from steerkit.errors import SteerkitError
from steerkit.extraction.gradient_rows import PaddedRows

if TYPE_CHECKING:
    from torch import Tensor

TokenLoss = Callable[["Tensor", "Tensor"], "Tensor"]
"""Logits [N, V] and the tokens that came [N] → each one's loss [N]."""

ROOM = 2**22
"""Logits that a loss is computed of at once, in numbers: 16 MiB in float32, of which a loss makes a few copies."""


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """[N, V] logits and [N] token ids → [N] nats, in float32 at least."""
    import torch

    wide = logits.float() if logits.itemsize < 4 else logits
    return torch.nn.functional.cross_entropy(wide, targets, reduction="none")


def backward(logits: Tensor, batch: PaddedRows, token_loss: TokenLoss) -> float:
    """Σ w · loss over the response tokens, and its backward pass.

    The gradient by the logits is written over the logits [B, T, V], which nothing needs any more: with a large
    vocabulary they are most of what a pass holds.

    Raises:
        SteerkitError: the loss doesn't depend on the logits.
    """
    import torch

    given, loss = logits.detach(), 0.0
    for places in batch.response[:, 1:].nonzero().split(max(1, ROOM // logits.shape[-1])):
        rows, columns = places.unbind(1)
        targets, weights = batch.ids[rows, columns + 1], batch.weights[rows]
        at = rows.to(given.device), columns.to(given.device)  # what is predicted there is the next token
        own = given[at].requires_grad_()
        losses = token_loss(own, targets.to(given.device))
        if not losses.requires_grad:
            raise SteerkitError("token_loss: its losses don't depend on the logits that it is given")
        part = (losses * weights.to(losses)).sum()
        given[at] = torch.autograd.grad(part, own)[0]
        loss += float(part.detach())
    idle = ~torch.nn.functional.pad(batch.response[:, 1:], (0, 1))
    logits.backward(given.masked_fill_(idle[..., None].to(given.device), 0))
    return loss
