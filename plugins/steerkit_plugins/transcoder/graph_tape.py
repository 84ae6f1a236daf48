"""One text in the linearised model, ready for gradients of many targets at once.

Shapes: R equal rows of a text of T tokens, one for each target of a backward pass; D the width; N active features.
Imports torch; it is imported when a graph is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from steerkit.errors import SteerkitError
from steerkit.models.adapter_layout import adapter_state
from steerkit.models.block_output import hidden_of
from steerkit.models.language_model import LanguageModel
from steerkit.models.limits import check_ids, check_lengths
from steerkit_plugins.transcoder.relp import linearised
from steerkit_plugins.transcoder.units import TranscoderGroup, transcoder_groups


@dataclass(eq=False)
class Tape:
    """A forward of R equal rows whose gradients can be taken again and again.

    Attributes:
        groups: the transcoders, in the order of their blocks.
        embeddings: [R, T, D] what the embedding puts out.
        ones: [R, 1, 1]; its gradient sums what all constants of a row contribute, but for the decoders' biases.
        codes: [T, F] features of each group.
        added: [R, T, D] what each transcoder adds, a constant that gradients are taken for.
        inputs: [R, T, D] what each encoder reads.
        blocks: [R, T, D] what each group's block reads.
        final: [R, T, D] behind the final norm.
        logits: [V] after the last token.
    """

    groups: Sequence[TranscoderGroup]
    ones: Tensor
    embeddings: Tensor = field(init=False)
    codes: list[Tensor] = field(default_factory=list)
    added: list[Tensor] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)
    blocks: list[Tensor] = field(default_factory=list)
    final: Tensor = field(init=False)
    logits: Tensor = field(init=False)

    @property
    def rows(self) -> int:
        """R."""
        return self.ones.shape[0]

    @property
    def tokens(self) -> int:
        """T."""
        return self.embeddings.shape[1]

    def gradients(
        self, outputs: Sequence[Tensor], given: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        """Gradients of Σ ⟨given, outputs⟩ for embeddings [R, T, D], `ones` [R], and each group's `added`; None where no
        path leads there."""
        found = torch.autograd.grad(
            outputs, [self.embeddings, self.ones, *self.added], given, retain_graph=True, allow_unused=True
        )
        first, ones = (
            torch.zeros_like(leaf) if one is None else one
            for leaf, one in zip((self.embeddings, self.ones), found, strict=False)
        )
        return first, ones.flatten(), list(found[2:])


@contextmanager
def taped(lm: LanguageModel, ids: Sequence[int], rows: int) -> Iterator[Tape]:
    """Run a text through the linearised model.

    Args:
        ids: of the text, T of them.
        rows: R, copies of the text in the batch.

    Raises:
        SteerkitError: the model has no transcoder that is on, is of a family whose forward has unknown nonlinearities,
            or can't read these ids.
    """
    check_ids(lm, [ids])
    check_lengths(lm, len(ids), "a graph's text")
    groups = transcoder_groups(lm)
    with ExitStack() as stack:
        stack.enter_context(adapter_state(lm))
        _freeze(stack, lm.model)
        tape = Tape(groups, torch.ones(rows, 1, 1, dtype=lm.dtype, device=lm.device, requires_grad=True))
        stack.enter_context(linearised(lm, tape.ones))
        _record(stack, lm, tape)
        with torch.enable_grad():
            text = torch.tensor([list(ids)] * rows, device=lm.device)
            out = lm.model(input_ids=text, use_cache=False, logits_to_keep=1)
        stack.enter_context(torch.no_grad())  # for those who use the tape; its gradients can be taken all the same
        tape.logits = out.logits[0, -1].detach()
        if len(tape.inputs) != len(groups):
            raise SteerkitError(f"{lm.name}: its transcoders are turned off, so that they have no attribution graph")
        yield tape


def _freeze(stack: ExitStack, model: nn.Module) -> None:
    """No gradients of weights, which would only take memory."""
    for weight in model.parameters():
        if weight.requires_grad:
            weight.requires_grad_(False)
            stack.callback(weight.requires_grad_, True)


def _record(stack: ExitStack, lm: LanguageModel, tape: Tape) -> None:
    """Fill the tape in the next forward."""

    def embedded(module: Any, args: Any, output: Tensor) -> Tensor:
        tape.embeddings = output.detach().requires_grad_()
        return tape.embeddings

    def ended(module: Any, args: Any, output: Tensor) -> None:
        tape.final = output

    def begun(module: Any, args: Any, kwargs: Any) -> None:
        tape.blocks.append(hidden_of(args or kwargs))

    stack.callback(lm.model.get_input_embeddings().register_forward_hook(embedded).remove)
    stack.callback(lm.final_norm.register_forward_hook(ended).remove)
    for group in tape.groups:
        block = lm.blocks[group.layer]
        stack.callback(block.register_forward_pre_hook(begun, with_kwargs=True).remove)
        group.transcoder.forward = _constant_output(group, tape)  # type: ignore[method-assign]
        stack.callback(delattr, group.transcoder, "forward")


def _constant_output(group: TranscoderGroup, tape: Tape) -> Any:
    """A transcoder whose output is a constant; computed once for all rows, which are equal."""
    own = group.transcoder

    def forward(x: Tensor) -> Tensor:
        with torch.no_grad():
            code = own.code(own.encode(x[:1]))
            output = (own.scale * own.decoder(code)).to(x.dtype)
        tape.inputs.append(x)
        tape.codes.append(code[0])
        tape.added.append(output.expand(tape.rows, -1, -1).clone().requires_grad_())
        return tape.added[-1]

    return forward
