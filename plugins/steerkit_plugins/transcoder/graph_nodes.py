"""Nodes of an attribution graph: active features, tokens, and the likeliest next tokens. Imports torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from steerkit.models.language_model import LanguageModel
from steerkit_plugins.transcoder.graph_tape import Tape


@dataclass(frozen=True, eq=False)
class Features:
    """N active features, ordered by block, position, number.

    Attributes:
        group: [N] number of the transcoder.
        layer: [N] 0-based decoder block.
        position: [N] token.
        index: [N] number in its block.
        activation: [N] f > 0.
        reads: [N_g, D] encoder rows, group by group.
        biases: [N] of the encoder.
        writes: [N_g, D] what each adds to the MLP's output, f · s · W_dec, group by group.
    """

    group: Tensor
    layer: Tensor
    position: Tensor
    index: Tensor
    activation: Tensor
    reads: list[Tensor]
    biases: Tensor
    writes: list[Tensor]

    def __len__(self) -> int:
        return len(self.group)


@dataclass(frozen=True, eq=False)
class Logits:
    """K next tokens, the likeliest first.

    Attributes:
        ids: [K].
        probabilities: [K].
        vectors: [K, D] what each logit, minus the mean of all, reads behind the final norm.
        biases: [K] the same of the output matrix's bias.
    """

    ids: Tensor
    probabilities: Tensor
    vectors: Tensor
    biases: Tensor

    def __len__(self) -> int:
        return len(self.ids)


def active_features(tape: Tape, *, first_token: bool) -> Features:
    """All features above 0.

    Args:
        first_token: whether those at the first token are nodes.
    """
    groups, layers, positions, indices, activations = [], [], [], [], []
    reads, biases, writes = [], [], []
    for number, (own, code) in enumerate(zip(tape.groups, tape.codes, strict=True)):
        position, index = torch.nonzero(code[0 if first_token else 1 :], as_tuple=True)
        position = position + (0 if first_token else 1)
        f, transcoder = code[position, index], own.transcoder
        groups.append(torch.full_like(position, number))
        layers.append(torch.full_like(position, own.layer))
        positions.append(position)
        indices.append(index)
        activations.append(f)
        reads.append(transcoder.encoder.weight.detach()[index])
        biases.append(transcoder.encoder.bias.detach()[index])
        writes.append(f[:, None] * transcoder.scale * transcoder.decoder.weight.detach().T[index])
    group, layer, at, index, f = (torch.cat(each) for each in (groups, layers, positions, indices, activations))
    return Features(group, layer, at, index, f, reads=reads, biases=torch.cat(biases), writes=writes)


def likeliest(lm: LanguageModel, tape: Tape, *, most: int, share: float) -> Logits:
    """The fewest tokens whose probabilities sum to `share`, and at most `most` of them.

    A cap on logits is linearised: the ratio of a logit behind the cap to the one before it is a constant.
    """
    head = lm.transformer.get_output_embeddings()
    weight, logits = head.weight.detach(), tape.logits.to(torch.promote_types(tape.logits.dtype, torch.float32))
    weight = weight.to(logits.dtype)
    bias = (
        torch.zeros(len(weight), dtype=weight.dtype, device=weight.device) if head.bias is None else head.bias.detach()
    )
    raw = weight @ tape.final[0, -1].detach().to(weight.dtype) + bias
    ratio = torch.where(raw.abs() > torch.finfo(raw.dtype).tiny, logits / raw, torch.ones_like(raw))
    probabilities, ids = logits.softmax(-1).topk(min(most, len(logits)))
    enough = int((probabilities.cumsum(0) < share).sum()) + 1
    ids, probabilities = ids[:enough], probabilities[:enough]
    mean = ratio @ weight / len(weight)
    return Logits(
        ids,
        probabilities,
        ratio[ids, None] * weight[ids] - mean,
        (ratio * bias)[ids] - (ratio * bias).mean(),
    )


def text_of(lm: LanguageModel) -> Callable[[int], str]:
    """Token id → its text."""
    return lambda token: str(lm.tokenizer.decode([token]))
