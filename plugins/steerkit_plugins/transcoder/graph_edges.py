"""Edges into targets: gradient × activation on the linearised model, a row of the batch each. Imports torch."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from steerkit_plugins.transcoder.graph_nodes import Features, Logits
from steerkit_plugins.transcoder.graph_tape import Tape

EdgeTarget = Literal["pre_activation", "resid_pre"]


class Edges:
    """Rows of edges of a text.

    A feature's value is its pre-activation W_enc x + b_enc, a token's logit is taken minus the mean of all logits.

    Args:
        at: where a feature's encoder row is injected: at the encoder's own input (`pre_activation`), so that its edges
            and constants sum to its value, or at its block's input (`resid_pre`), which leaves out the block's norm and
            attention.
    """

    def __init__(self, tape: Tape, features: Features, logits: Logits, at: EdgeTarget = "pre_activation") -> None:
        self.tape, self.features, self.logits = tape, features, logits
        self.into = tape.inputs if at == "pre_activation" else tape.blocks
        self.begins = [0, *torch.bincount(features.group, minlength=len(tape.groups)).cumsum(0).tolist()]
        self._slots = [self._by_token(number) for number in range(len(tape.groups))]

    @property
    def columns(self) -> int:
        """Sources: N features, then T tokens."""
        return len(self.features) + self.tape.tokens

    def of_features(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Edges into features.

        Args:
            targets: [n] their numbers, n ≤ R.

        Returns:
            [n, N + T] edges from features and tokens, and [n] what constants contribute.
        """
        f, device = self.features, self.tape.ones.device
        targets = targets.to(device)
        rows, into, given = torch.arange(len(targets), device=device), [], []
        groups = f.group[targets]
        for group in groups.unique().tolist():
            own = groups == group
            injected = torch.zeros_like(self.into[group])
            injected[rows[own], f.position[targets[own]]] = f.reads[group][targets[own] - self.begins[group]].to(
                injected
            )
            into.append(self.into[group])
            given.append(injected)
        edges, rest = self._backward(into, given, len(targets))
        return edges, rest + f.biases[targets].to(rest)

    def of_logits(self, begin: int, end: int) -> tuple[Tensor, Tensor]:
        """The same for the logits from `begin` to `end`, at most R of them."""
        injected = torch.zeros_like(self.tape.final)
        injected[: end - begin, -1] = self.logits.vectors[begin:end].to(injected)
        edges, rest = self._backward([self.tape.final], [injected], end - begin)
        return edges, rest + self.logits.biases[begin:end].to(rest)

    def _backward(self, into: list[Tensor], given: list[Tensor], count: int) -> tuple[Tensor, Tensor]:
        embeddings, ones, added = self.tape.gradients(into, given)
        wide = torch.promote_types(embeddings.dtype, torch.float32)
        found = torch.zeros(count, self.columns, dtype=wide, device=embeddings.device)
        found[:, len(self.features) :] = (embeddings[:count].to(wide) * self.tape.embeddings[:count].to(wide)).sum(-1)
        rest = ones[:count].to(wide)
        for number, gradient in enumerate(added):
            if gradient is None:
                continue
            gradient, transcoder = gradient[:count].to(wide), self.tape.groups[number].transcoder
            position, slot, writes = self._slots[number]
            sums = gradient.transpose(0, 1) @ writes.to(wide)  # [T, n, slots]
            found[:, self.begins[number] : self.begins[number + 1]] = sums[position, :, slot].T
            if transcoder.decoder.bias is not None:
                bias = transcoder.scale * transcoder.decoder.bias.detach().to(wide)
                rest = rest + (gradient @ bias).sum(-1)
        return found, rest

    def _by_token(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """A group's features as one matrix a token, so that a product takes no copies of gradients.

        Returns:
            [N_g] positions, [N_g] places among the features at that token, and [T, D, slots] what they write.
        """
        position = self.features.position[self.begins[number] : self.begins[number + 1]]
        writes = self.features.writes[number]
        counts = torch.bincount(position, minlength=self.tape.tokens)
        slot = torch.arange(len(position), device=position.device) - (counts.cumsum(0) - counts)[position]
        slots = int(counts.max()) if len(position) else 0
        table = writes.new_zeros(self.tape.tokens, slots, self.tape.added[number].shape[-1])
        table[position, slot] = writes
        return position, slot, table.transpose(1, 2)

    def feature_values(self) -> Tensor:
        """[N] pre-activations, without gradients."""
        parts = [
            (x[0].detach()[self.features.position[begin:end]].to(reads.dtype) * reads).sum(-1)
            for x, reads, begin, end in zip(
                self.tape.inputs, self.features.reads, self.begins[:-1], self.begins[1:], strict=True
            )
        ]
        return torch.cat(parts) + self.features.biases

    def logit_values(self) -> Tensor:
        """[K] logits minus the mean of all, without gradients."""
        logits = self.tape.logits.to(torch.promote_types(self.tape.logits.dtype, torch.float32))
        return logits[self.logits.ids] - logits.mean()
