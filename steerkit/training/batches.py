"""Rows to tensors, and back to a typed batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from steerkit.training.contract import Batch
from steerkit.training.masks import IGNORED, Encoded

if TYPE_CHECKING:
    from torch import Tensor

Row = Mapping[str, Any]
"""What transformers' loaders are given for a row: `input_ids`, `labels`, `prompt_length`, and its place, `row`."""


def as_dataset(rows: Sequence[Encoded]) -> list[Row]:
    """Rows as transformers' loaders take them."""
    return [
        {"input_ids": row.ids, "labels": row.labels, "prompt_length": row.prompt_length, "row": place}
        for place, row in enumerate(rows)
    ]


def collator(tokenizer: Any) -> Callable[[Sequence[Row]], dict[str, Tensor]]:
    """Rows to one batch, padded on the right. What pads is masked, so any id does."""
    pad = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)

    def collate(rows: Sequence[Row]) -> dict[str, Tensor]:
        import torch

        longest = max(len(row["input_ids"]) for row in rows)

        def padded(values: Sequence[Sequence[int]], filled: int) -> Tensor:
            return torch.tensor([[*own, *[filled] * (longest - len(own))] for own in values])

        return {
            "input_ids": padded([row["input_ids"] for row in rows], pad),
            "attention_mask": padded([[1] * len(row["input_ids"]) for row in rows], 0),
            "labels": padded([row["labels"] for row in rows], IGNORED),
            "prompt_length": torch.tensor([row["prompt_length"] for row in rows]),
            "row": torch.tensor([row["row"] for row in rows]),
        }

    return collate


def batch_of(tensors: Mapping[str, Tensor], tokens: Tensor | int) -> Batch:
    """A collated batch.

    Args:
        tokens: see `Batch.tokens`.
    """
    return Batch(
        ids=tensors["input_ids"],
        mask=tensors["attention_mask"],
        labels=tensors["labels"],
        prompt_lengths=tuple(tensors["prompt_length"].tolist()),
        rows=tuple(tensors["row"].tolist()),
        tokens=tokens,
    )
