"""Gradients of a loss with respect to activations: all sites in one backward pass, in memory that doesn't grow.

Rows of like length share a pass (`steerkit.extraction.batching`). The gradients at all sites wait until the pass has
ended, so that one that runs out of memory leaves no trace; then they go into sums and are dropped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from steerkit.data.gradient_statistics import GradientStatistics, Kind, Reduction, TokensRead
from steerkit.data.site import Site
from steerkit.errors import InputError, Problem
from steerkit.extraction.batching import Queue
from steerkit.extraction.extract import made_by
from steerkit.extraction.gradient_pass import Pass, Taken, differentiate
from steerkit.extraction.gradient_rows import GradientRow, Pair, check_counterparts, check_rows
from steerkit.extraction.gradient_tokens import batch_gradients
from steerkit.extraction.gradient_totals import Directions, GradientTotals
from steerkit.extraction.token_losses import TokenLoss, cross_entropy
from steerkit.models.sites import resolve
from steerkit.stats.noise import key_of

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.models.language_model import LanguageModel

PASS_TOKENS = 4096
"""Padded tokens of a pass, whose activations are all kept until it goes back."""


def gradients(
    lm: LanguageModel,
    rows: Sequence[GradientRow],
    *,
    against: Sequence[GradientRow] | None = None,
    sites: Sequence[Site] | None = None,
    reduction: Reduction = "token",
    directions: Directions | None = None,
    moments: TokensRead | None = "response",
    taken: Taken = "after edits",
    token_loss: TokenLoss = cross_entropy,
    batch_tokens: int = PASS_TOKENS,
    on_batch: Callable[[int, int], None] | None = None,
) -> GradientStatistics:
    """Sum the gradients of the loss on rows' responses.

    The model's parameters get no gradient and stay as they are. Dropout and gradient checkpointing are as the model's
    mode (`train`, `eval`) has them.

    Args:
        against: the same responses in another setting (no edits, another prompt), row by row. What is summed are then
            the differences g(row) - g(its counterpart), response token by response token; where a prompt is longer,
            its response's positions are others, too.
        sites: all block outputs by default.
        reduction: the loss is the mean over all response tokens (`token`) or over rows of each row's mean (`row`).
        directions: name → site → [D], for the mean over tokens of cos(-g, v), which sums can't tell afterwards.
        moments: tokens whose second moments are kept, which the participation ratio of the spectrum takes: D × D
            numbers a site, exact, for sites up to 4096 wide. None keeps none.
        taken: the gradient by what the edits at a site have made, or by what they are given. Adding a vector leaves
            these the same; `before edits` shows what a change of the gradient there hands on.
        token_loss: the loss of single tokens.
        batch_tokens: padded tokens that share a pass, at most; fewer on a CPU and where memory runs out.
        on_batch: called as (batches done, batches in all).

    Returns:
        Float64 sums on the CPU, additive over disjoint sets of rows.

    Raises:
        InputError: every row without a prompt or a response, or whose counterpart has another one; every direction
            that lacks a site.
        SteerkitError: a site that the model hasn't, a gradient that isn't finite, edits that did nothing, or a row
            that memory doesn't hold even alone.
    """
    wanted = [Site(layer) for layer in range(lm.depth)] if sites is None else sorted(set(sites))
    places = [resolve(lm, site) for site in wanted]
    directions = directions or {}
    check_rows(lm, rows, "rows")
    if against is not None:
        check_rows(lm, against, "against")
        check_counterparts(rows, against)
    _check_directions(directions, wanted)
    kinds: tuple[Kind, ...] = ("prompt", "response") if against is None else ("response",)
    totals = GradientTotals(kinds, kinds if moments == "all" else () if moments is None else (moments,), directions)

    def run(part: Sequence[GradientRow]) -> Pass:
        return differentiate(lm, part, places, reduction=reduction, taken=taken, token_loss=token_loss)

    pairs = [Pair(row, None if against is None else against[number]) for number, row in enumerate(rows)]
    queue, loss = Queue(lm, pairs, batch_tokens), 0.0
    while queue.left:
        with queue.next() as [batch]:
            # A counterpart's prompt may be longer: models that can't be padded run such pairs one by one
            parts = [batch] if against is None or lm.batches == "padded" else [[pair] for pair in batch]
            found = [batch_gradients(run, part) for part in parts]
        if queue.ran_out:
            continue
        while found:
            read = found.pop()
            loss += read.loss
            for site, rows_of_site in read.gradients.items():
                totals.add(site, rows_of_site, read.tokens)
        if on_batch:
            on_batch(queue.done, queue.count)
    return GradientStatistics(
        sums=totals.sums(),
        reduction=reduction,
        loss_sum=loss,
        tokens=sum(len(row.response) for row in rows),
        rows=len(rows),
        responses=sum(key_of(*row.response) for row in rows) % 2**63,
        directions={name: _digest(own) for name, own in directions.items()},
        meta=made_by(lm),
    )


def _check_directions(directions: Directions, sites: Sequence[Site]) -> None:
    """Raises: InputError for every direction that lacks a site, or is zero there."""
    problems = []
    for name, own in directions.items():
        if missing := [str(site) for site in sites if site not in own]:
            problems.append(Problem(f"directions[{name!r}]", f"has none for {', '.join(missing)}", "add it"))
        elif zero := [str(site) for site in sites if not bool(own[site].any())]:
            problems.append(Problem(f"directions[{name!r}]", f"is zero at {', '.join(zero)}", "leave the site out"))
    if problems:
        raise InputError("directions for gradients", problems)


def _digest(direction: Mapping[Site, Tensor]) -> str:
    """16 hex digits over a direction at all its sites."""
    found = hashlib.sha256()
    for site in sorted(direction):
        found.update(f"{site}:".encode() + direction[site].detach().cpu().float().numpy().tobytes())
    return found.hexdigest()[:16]
