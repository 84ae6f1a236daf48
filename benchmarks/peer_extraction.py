"""Sums of activations around spans by others' means: the same numbers as `steerkit.extract`, in the same form."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from steerkit.bench.traces import LABELS
from steerkit.data.trace import Item
from steerkit.data.windows import groups_of
from steerkit.models.language_model import LanguageModel

FIRST, LAST = -40, 5  # offsets from a span's first token, 46 of them
DECODER_BLOCKS: Any = {"decoder_block": "layers.{num}"}  # in the decoder alone: nobody needs the LM head here

Layers = Callable[[Tensor], Sequence[Tensor]]
"""Right-padded ids [B, T] → every block's output [B, T, H]."""


def sums_by_saving(layers_of: Layers, items: Sequence[Item], batch: int) -> Tensor:
    """[2 weightings, G groups, L, O, H] float64 sums, from every block's output of whole batches.

    What a careful user of a recorder writes: traces sorted by length, no mask, which causal attention doesn't need for
    padding on the right, then one gather and one product a layer. Statistics of all thinking tokens, which `extract`
    also gives, are left out.
    """
    total: Tensor | None = None
    for part, ids in padded(sorted(items, key=lambda item: len(item.ids)), batch):
        rows, columns, weights = windows(part)
        saved = layers_of(ids)
        sums = torch.empty(len(weights), len(saved), (LAST - FIRST + 1) * saved[0].shape[-1], dtype=torch.float64)
        for layer, hidden in enumerate(saved):
            sums[:, layer] = weights @ hidden[rows, columns].double().flatten(1)
        total = sums if total is None else total.add_(sums)
    assert total is not None
    return total.reshape(2, len(groups_of(LABELS)), total.shape[1], LAST - FIRST + 1, -1)


def padded(items: Sequence[Item], batch: int) -> Iterator[tuple[Sequence[Item], Tensor]]:
    """`batch` traces at a time, and their ids, padded on the right."""
    for begin in range(0, len(items), batch):
        part = items[begin : begin + batch]
        ids = torch.zeros(len(part), max(len(item.ids) for item in part), dtype=torch.long)
        for row, item in enumerate(part):
            ids[row, : len(item.ids)] = torch.tensor(item.ids)
        yield part, ids


def windows(items: Sequence[Item]) -> tuple[Tensor, Tensor, Tensor]:
    """Rows [S, 1] and columns [S, O] of eligible spans, and their weights [2 * G, S] in the groups' sums."""
    names = groups_of(LABELS)
    rows, firsts, inside = [], [], []
    for row, item in enumerate(items):
        present = {span.label for span in item.spans}
        for span in item.spans:
            if span.first + FIRST >= 1 and span.first + LAST < len(item.ids):
                rows.append(row)
                firsts.append(span.first)
                inside.append([belongs(name, span.label, present) for name in names])
    by_span = torch.tensor(inside, dtype=torch.float64).reshape(-1, len(names)).mT  # [G, S], S may be 0
    at = torch.tensor(rows, dtype=torch.long)
    one_hot = torch.nn.functional.one_hot(at, len(items)).double()  # [S, B]
    of_trace = by_span @ one_hot  # [G, B]: eligible spans
    by_trace = by_span / of_trace[:, at].clamp(min=1)
    columns = torch.tensor(firsts, dtype=torch.long)[:, None] + torch.arange(FIRST, LAST + 1)
    return at[:, None], columns, torch.cat([by_trace, by_span])


def belongs(group: str, label: str, present: set[str]) -> bool:
    """Whether a span is in a group."""
    kind, _, name = group.rpartition(":")
    return {"": group in ("all", label), "rest": label != name, "with": name in present}[kind]


def by_nnsight(lm: LanguageModel) -> Layers:
    """Every block's output, saved in one trace of the decoder (no LM head, no cache)."""
    import nnsight

    model = nnsight.NNsight(lm.decoder)

    def layers_of(ids: Tensor) -> Sequence[Tensor]:
        with torch.inference_mode(), model.trace(input_ids=ids, use_cache=False):
            saved = nnsight.save([])
            for block in model.layers:
                saved.append(block.output)
        found: Sequence[Tensor] = saved
        return found

    return layers_of


class Reads:
    """One read a span and offset by steering-vectors' `extract_activations`: texts cut after their token, no head."""

    def __init__(self, lm: LanguageModel, items: Sequence[Item]) -> None:
        self.lm = lm
        # A text is its place in this list: steering-vectors wants strings, and a tokenizer that it may call.
        self.texts = [
            item.ids[: span.first + offset + 1]
            for item in items
            for span in item.spans
            if span.first + FIRST >= 1 and span.first + LAST < len(item.ids)
            for offset in range(FIRST, LAST + 1)
        ]
        self.order = random.Random(0).sample(range(len(self.texts)), len(self.texts))

    pad_token = eos_token = "<pad>"
    pad_token_id = eos_token_id = 0

    def __call__(self, names: Sequence[str], **_: Any) -> Any:
        """The tokenizer: right-padded ids and mask of named texts."""
        from transformers import BatchEncoding

        parts = [self.texts[int(name)] for name in names]
        longest = max(map(len, parts))
        ids = torch.tensor([[*part, *[0] * (longest - len(part))] for part in parts])
        mask = torch.tensor([[1] * len(part) + [0] * (longest - len(part)) for part in parts])
        return BatchEncoding({"input_ids": ids, "attention_mask": mask})

    def run(self, reads: int, batch: int) -> tuple[list[int], dict[int, list[Tensor]]]:
        """Read this many randomly chosen (span, offset): half as positives, half as negatives.

        Returns:
            Which ones the negatives were, and their activations by layer, [batch, H] each.
        """
        from steering_vectors.train_steering_vector import extract_activations

        chosen = self.order[:reads]
        half = reads // 2
        samples = [(str(a), str(b)) for a, b in zip(chosen[:half], chosen[half:], strict=True)]
        model: Any = self.lm.decoder
        _, negative = extract_activations(model, self, samples, batch_size=batch, layer_config=DECODER_BLOCKS)
        return chosen[half:], negative
