"""Which tokens may be drawn: top-k, top-p and min-p as transformers' logits processors keep them.

Each of the three keeps the tokens from some score upwards, so only the likeliest tokens are sorted, to find it.
Tests hold this against TopKLogitsWarper, TopPLogitsWarper (with a stable sort) and MinPLogitsWarper.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

WIDTH = 256  # likeliest tokens that are sorted for top_p alone, at first
GROWTH = 8  # times as many after a step for which they were too few
ROUNDING = 1e-9  # of sums: 9 of 10 equally likely tokens have 0.9 together


class Filters:
    """top_k, then top_p, then min_p; None leaves one out.

    Attributes:
        width: how many of the likeliest tokens are sorted for top_p where there is no top_k.
    """

    def __init__(
        self, top_k: int | None = None, top_p: float | None = None, min_p: float | None = None, *, width: int = WIDTH
    ) -> None:
        self.top_k, self.top_p, self.min_p, self.width = top_k, top_p, min_p, width

    def widen(self) -> None:
        """Sort more tokens from now on."""
        self.width *= GROWTH

    def keep(self, scores: Tensor) -> tuple[Tensor, Tensor | None]:
        """Choose tokens by [B, V] float32 logits / T, without waiting for the device.

        Returns:
            [B, V] bool, the tokens to keep; and, where that can be, whether `width` tokens were too few for a row, so
            that the answer is wrong: `widen` and ask again.
        """
        count = self.top_k or (self.width if self.top_p else 1)
        best = scores.topk(min(count, scores.shape[-1])).values  # the likeliest first
        keep: Tensor | None = None
        short: Tensor | None = None
        if self.top_k:
            keep = scores >= best[:, -1:]
        if self.top_p:
            keep, short = _nucleus(scores, keep, best, self.top_p)
        if self.min_p:
            # p ≥ min_p × the largest p. That top_k and top_p changed the sum below both cancels out.
            likely = scores >= best[:, :1] + math.log(self.min_p)
            keep = likely if keep is None else keep & likely
        assert keep is not None  # a Filters has at least one of the three
        return keep, short


def _nucleus(scores: Tensor, among: Tensor | None, best: Tensor, share: float) -> tuple[Tensor, Tensor | None]:
    """The tokens such that those likelier than each have less than `share` together.

    Args:
        scores: [B, V]
        among: [B, V] bool, the tokens to choose from; all of them when None.
        best: [B, K] the largest scores, downwards; all that `among` keeps, but for ties with the last one.
    """
    import torch

    each = (scores - best[:, :1]).exp_()
    total = (each if among is None else each.mul_(among)).sum(-1, keepdim=True, dtype=torch.double)
    del each  # [B, V] tensors decide how many rows fit the memory
    p = (best - best[:, :1]).double().exp_().div_(total)
    likelier = p.cumsum(-1).sub_(p)  # how probable those before each are together
    share -= ROUNDING
    last = ((likelier < share).sum(-1, keepdim=True) - 1).clamp(min=0)
    floor, its_p = best.gather(-1, last), p.gather(-1, last)
    above = likelier.gather(-1, (best > floor).sum(-1, keepdim=True))
    # Of the tokens that tie with the last one some may be left out: those with lower ids. transformers leaves out as
    # many, but its sort is not stable: which ones depends on the machine there.
    tied = scores == floor
    wanted = ((share - above) / its_p).ceil().clamp(min=1)
    rank = tied.flip(-1).cumsum(-1, dtype=torch.int32).flip(-1)
    partly = among is None and best.shape[-1] < scores.shape[-1]
    return (scores > floor) | (tied & (rank <= wanted)), (wanted > rank[:, :1]).any() if partly else None
