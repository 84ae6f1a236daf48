"""Rows whose loss is differentiated: a prompt with a response, and the edits that are active meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steerkit.data.gradient_statistics import Reduction
from steerkit.errors import InputError, Problem
from steerkit.interventions.edits import EditSet
from steerkit.models.limits import check_ids, check_lengths

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.models.language_model import LanguageModel


@dataclass(frozen=True)
class GradientRow:
    """A text whose response's loss is differentiated.

    Attributes:
        ids: token ids of the prompt and the response.
        prompt_length: tokens of the prompt; the loss is that of the tokens after it.
        edits: what is done to the row in the forward pass, and to its gradients in the backward pass.
        id: for errors, and to put rows of equal length in an order.
    """

    ids: Sequence[int]
    prompt_length: int
    edits: EditSet = ()
    id: str = ""

    @property
    def response(self) -> Sequence[int]:
        return self.ids[self.prompt_length :]


@dataclass(frozen=True)
class PaddedRows:
    """A batch as tensors, padded on the right, which causal attention never sees.

    Attributes:
        ids: [B, T] token ids.
        prompt, response: [B, T] True for tokens of that kind; neither for padding.
        weights: [B] weight of a row's response tokens in the summed loss.
    """

    ids: Tensor
    prompt: Tensor
    response: Tensor
    weights: Tensor


def padded(rows: Sequence[GradientRow], reduction: Reduction) -> PaddedRows:
    """Rows of a batch."""
    import torch

    lengths = torch.tensor([len(row.ids) for row in rows])[:, None]
    prompts = torch.tensor([row.prompt_length for row in rows])[:, None]
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(list(row.ids)) for row in rows], batch_first=True)
    column = torch.arange(ids.shape[1])
    weights = torch.ones(len(rows), dtype=torch.float64)
    if reduction == "row":
        weights = 1 / (lengths - prompts)[:, 0].double()
    return PaddedRows(ids, column < prompts, (column >= prompts) & (column < lengths), weights)


@dataclass(frozen=True)
class Pair:
    """A row and, where differences are asked for, its counterpart in another setting; as they are batched."""

    row: GradientRow
    other: GradientRow | None = None

    @property
    def ids(self) -> Sequence[int]:
        """The longer one's."""
        return max(self.row.ids, () if self.other is None else self.other.ids, key=len)

    @property
    def name(self) -> str:
        return f"row {self.row.id!r}"

    @property
    def order(self) -> str:
        return self.row.id

    @property
    def cells(self) -> int:
        """Batches are limited by their tokens alone."""
        return 1


def check_rows(lm: LanguageModel, rows: Sequence[GradientRow], where: str) -> None:
    """Raises: InputError for all rows without a prompt or a response; SteerkitError for ids that the model lacks."""
    problems = [
        Problem(
            f"{where}[{number}]",
            f"its prompt has {row.prompt_length} of {len(row.ids)} tokens",
            "give it a token of the prompt and one of the response at least",
        )
        for number, row in enumerate(rows)
        if not 0 < row.prompt_length < len(row.ids)
    ]
    if not rows:
        problems = [Problem(where, "there is no row", "give one at least")]
    if problems:
        raise InputError("gradients", problems)
    check_ids(lm, (row.ids for row in rows))
    check_lengths(lm, max(len(row.ids) for row in rows), "the longest row")


def check_counterparts(rows: Sequence[GradientRow], against: Sequence[GradientRow]) -> None:
    """Raises: InputError for all rows whose counterparts have other responses."""
    problems = [
        Problem(f"against[{number}]", "its response is not that of the row", "differences are taken token by token")
        for number, (row, other) in enumerate(zip(rows, against, strict=False))
        if list(row.response) != list(other.response)
    ]
    if len(rows) != len(against):
        problems = [Problem("against", f"{len(against)} rows for {len(rows)}", "give each row its counterpart")]
    if problems:
        raise InputError("differences of gradients", problems)
