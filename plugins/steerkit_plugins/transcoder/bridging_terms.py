"""The terms of the loss. Shapes: B rows, T tokens, H width, V vocabulary, N counted positions, P passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.autograd import Function

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit_plugins.transcoder.bridging_passes import Halves

Average = Literal["tokens", "sequences"]
Form = Literal["ratio_of_sums", "per_token"]
Head = Callable[["Tensor"], "Tensor"]
"""[N, H] states → [N, V] logits."""
CPU_CHUNK, GPU_CHUNK = 2**23, 2**26
"""Logits that are worked on at once, in numbers."""
LEAST = 64
"""Positions that are worked on at once at least."""
EPSILON = 1e-8


def counted(mask: Tensor, labels: Tensor, ignored: int, *, response: bool) -> Tensor:
    """[B, T] bool: the positions that predict a token which counts, so that none of a row's last ones does.

    Args:
        mask: [B, T], 0 for padding.
        labels: [B, T], `ignored` where a token is not of the response.
    """
    following = labels[:, 1:] != ignored if response else mask[:, 1:] != 0
    return torch.nn.functional.pad(following, (0, 1), value=False)


def weights_of(counts: Tensor, average: Average) -> Tensor:
    """[B, T] float32 that sum to 1: each counted position's part in a mean over tokens, or over sequences."""
    each = counts.float()
    if average == "tokens":
        return each / each.sum().clamp(min=1)
    of_row = each.sum(1, keepdim=True)
    return each / of_row.clamp(min=1) / (of_row > 0).sum().clamp(min=1)


def nmse(student: Tensor, target: Tensor, weights: Tensor, form: Form, average: Average) -> Tensor:
    """Squared error of one layer's states [B, T, H] as a share of the target's squares.

    Sums of both over all counted positions (of the batch, or of each sequence), or the mean of the positions' ratios.

    Args:
        weights: [B, T] of `weights_of`.
    """
    wide = torch.promote_types(student.dtype, torch.float32)
    target = target.to(wide)
    error, size = (student.to(wide) - target).square().sum(-1), target.square().sum(-1)
    if form == "per_token":
        return (weights * error / (size + EPSILON)).sum()
    at = (weights > 0).to(wide)
    axis = (0, 1) if average == "tokens" else (1,)
    ratios = (at * error).sum(axis) / ((at * size).sum(axis) + EPSILON)
    return (ratios * weights.sum(axis)).sum()


class Divergences(Function):
    """[P] Σ_n w_n KL(target ‖ student) of P students, a chunk of positions at a time.

    Gradients with respect to the states are computed with the values, so that no more than a chunk of logits is ever
    held and no head runs twice. The head is frozen: its weights get none.
    """

    @staticmethod
    def forward(ctx: Any, head: Head, chunk: int, target: Tensor, weights: Tensor, *students: Tensor) -> Tensor:
        """Args: chunk, positions at once; target [N, H]; weights [N]; each student [N, H]."""
        wanted = any(ctx.needs_input_grad)
        parts = [
            _chunk(head, own, mine, states, wanted)
            for own, mine, states in zip(
                target.split(chunk), weights.split(chunk), torch.stack(students).split(chunk, 1), strict=True
            )
        ]
        if wanted:
            ctx.save_for_backward(torch.cat([gradient for _, gradient in parts], 1))
        return torch.stack([value for value, _ in parts]).sum(0)

    @staticmethod
    def backward(ctx: Any, *outputs: Any) -> Any:
        (gradients,) = ctx.saved_tensors
        weighted = (own * weight for own, weight in zip(gradients, outputs[0], strict=True))
        return (None, None, None, None, *weighted)


def _chunk(head: Head, target: Tensor, weights: Tensor, students: Tensor, wanted: bool) -> tuple[Tensor, Tensor]:
    """[P] values and [P, n, H] gradients of n positions.

    KL as Σ P (log P − log Q) − P + Q, whose terms are none below 0 (`steerkit.units.divergence.divergences`).
    """
    with torch.no_grad():
        first = _log_probabilities(head(target))
        p = first.exp()
    values, gradients = [], []
    for student in students:
        with torch.set_grad_enabled(wanted):
            states = student.detach().requires_grad_(wanted)
            logits = head(states)
        with torch.no_grad():
            second = _log_probabilities(logits)
            difference = second.exp().sub_(p)
            values.append((weights * torch.sub(first, second, out=second).mul_(p).add_(difference).sum(-1)).sum())
            slope = difference.mul_(weights[:, None]).to(logits.dtype)
        gradients.append(torch.autograd.grad(logits, states, slope)[0] if wanted else states)
    return torch.stack(values), torch.stack(gradients)


def _log_probabilities(logits: Tensor) -> Tensor:
    return torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), -1)


def divergences(halves: Halves, target: Tensor, students: Sequence[Tensor], counts: Tensor, weights: Tensor) -> Tensor:
    """[P] KL(target ‖ student) of P passes' states, [B, T, H] each, over counted positions."""
    room = CPU_CHUNK if target.device.type == "cpu" else GPU_CHUNK
    chunk = max(LEAST, room // int(halves.lm.config.vocab_size))
    given = [states[counts] for states in (target, *students)]
    found: Tensor = Divergences.apply(  # type: ignore[no-untyped-call]
        halves.logits, chunk, given[0], weights[counts], *given[1:]
    )
    return found
