"""A batch's gradients token by token: of rows, or of the differences between rows and their counterparts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steerkit.data.site import Site
from steerkit.extraction.gradient_pass import Pass
from steerkit.extraction.gradient_rows import GradientRow, Pair
from steerkit.extraction.gradient_totals import TokenRows

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class BatchGradients:
    """What a batch gave.

    Attributes:
        loss: Σ w · loss; the difference of two such sums for differences.
        gradients: site → [N, D].
        tokens: what the N are.
    """

    loss: float
    gradients: dict[Site, Tensor]
    tokens: TokenRows


def batch_gradients(run: Callable[[Sequence[GradientRow]], Pass], batch: Sequence[Pair]) -> BatchGradients:
    """Of all tokens of the rows, padding included; of response tokens alone where rows have counterparts.

    Args:
        run: the forward and backward pass of rows.
    """
    import torch

    found, names = run([pair.row for pair in batch]), [pair.name for pair in batch]
    rows = found.rows
    owner = torch.arange(len(batch))[:, None].expand(rows.ids.shape)
    others = [pair.other for pair in batch if pair.other is not None]
    if not others:
        tokens = TokenRows(
            {"prompt": rows.prompt.flatten(), "response": rows.response.flatten()}, names, owner.flatten(), rows.weights
        )
        return BatchGradients(found.loss, {site: grad.flatten(0, 1) for site, grad in found.gradients.items()}, tokens)
    owner, loss, ours = owner[rows.response], found.loss, _of_responses(found)
    del found  # its gradients needn't wait for the other pass
    other = run(others)
    theirs = _of_responses(other)
    tokens = TokenRows({"response": torch.ones_like(owner, dtype=torch.bool)}, names, owner, rows.weights)
    return BatchGradients(loss - other.loss, {site: ours[site] - theirs[site] for site in ours}, tokens)


def _of_responses(found: Pass) -> dict[Site, Tensor]:
    """[N, D] gradients of the response tokens, row by row, in float32 at least."""
    read = {site: grad[found.rows.response.to(grad.device)] for site, grad in found.gradients.items()}
    return {site: grad.float() if grad.itemsize < 4 else grad for site, grad in read.items()}
