"""What every check starts from: random prompts, directions, edits, and how much rounding changes this model."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from steerkit.checks.forward import distance, logits
from steerkit.data.trace import Item, Span, Trace
from steerkit.extraction.extract import read_layer
from steerkit.interfaces import EditContext, Steerer
from steerkit.interventions.steering import Edit, Tokens
from steerkit.models.block_output import hidden_of, with_hidden
from steerkit.models.limits import check_lengths
from steerkit.models.quantized import arithmetic_eps

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.models.language_model import LanguageModel

SHORTEST, LONGEST = 6, 16  # tokens of a prompt
KINDS: tuple[Tokens, ...] = ("all", "prompt", "generated")
ROUNDINGS = 16  # see `Probe.tolerance`


class Add(Steerer):
    """h + norm · v̂: the plainest edit there is."""

    def edit(self, hidden: Tensor, at: EditContext) -> Tensor:
        return hidden + at.norm * at.direction


ADD = Add()


@dataclass(frozen=True)
class Probe:
    """A model with what it is checked on.

    Attributes:
        lm: the model, in eval mode.
        layers: 0-based blocks that are steered.
        prompts: ids of random tokens, of unequal lengths.
        seed: of prompts, directions and noise.
        placed: whether accelerate placed the model (`device_map` was given).
        again: loads the model once more; None where it did not come from files.
    """

    lm: LanguageModel
    layers: tuple[int, ...]
    prompts: tuple[tuple[int, ...], ...]
    seed: int = 0
    placed: bool = False
    again: Callable[[], LanguageModel] | None = None

    @cached_property
    def together(self) -> tuple[tuple[int, ...], ...]:
        """The prompts as they may share a forward: all, cut to one length, or the first alone."""
        if self.lm.batches == "alone":
            return self.prompts[:1]
        shortest = min(map(len, self.prompts))
        return self.prompts if self.lm.batches == "padded" else tuple(prompt[:shortest] for prompt in self.prompts)

    @cached_property
    def dtype(self) -> Any:
        """Of the blocks' outputs (offloaded weights may not be asked)."""
        return self.states[self.layers[0]][0].dtype

    @cached_property
    def eps(self) -> float:
        """Relative step of the numbers that the blocks compute with."""
        import torch

        return max(torch.finfo(self.dtype).eps, arithmetic_eps(self.lm.transformer))

    @cached_property
    def items(self) -> list[Item]:
        """The prompts as traces, each with three labelled spans."""
        return [item_of(f"p{number}", ids) for number, ids in enumerate(self.prompts)]

    @cached_property
    def states(self) -> dict[int, list[Tensor]]:
        """Steered layer → [T, H] output of that block for each prompt alone."""
        return {layer: alone(self.lm, self.items, layer) for layer in self.layers}

    def norm(self, layer: int) -> float:
        """L2 norm that edits add at a layer: the median token's residual norm, a strong steering."""
        import torch

        return float(torch.cat([state.float().norm(dim=-1) for state in self.states[layer]]).median())

    def direction(self, layer: int) -> Tensor:
        """[H] random unit vector."""
        import torch

        value = torch.randn(self.lm.width, generator=torch.Generator().manual_seed(self.seed * 1009 + layer))
        unit: Tensor = value / value.norm()
        return unit

    def edit(self, layer: int, strength: float = 1.0, tokens: Tokens = "all") -> Edit:
        return Edit(ADD, layer, strength * self.norm(layer), self.direction(layer), tokens)

    def mixed(self, rows: int, kinds: Sequence[Tokens] = ("all",)) -> list[Edit | None]:
        """A condition for each row: every fourth unsteered, the others of changing layer, sign and tokens."""
        return [
            None
            if row % 4 == 3
            else self.edit(self.layers[row % len(self.layers)], (1, -1)[row % 2], kinds[row % len(kinds)])
            for row in range(rows)
        ]

    @cached_property
    def plain(self) -> list[Tensor]:
        """[T, V] unsteered logits of each prompt, from one left-padded batch (or one a length)."""
        return logits(self.lm, self.prompts, [None] * len(self.prompts))

    @cached_property
    def rounding(self) -> float:
        """Relative change of the logits when every number that a block puts out is rounded once, at random."""
        import torch

        def jitter(module: Any, args: Any, output: Any) -> Any:
            hidden = hidden_of(output)
            draw = torch.randn(hidden.shape, generator=generator).to(hidden.device)
            changed = (hidden.float() * (1 + eps * draw)).to(hidden.dtype)
            return with_hidden(output, changed)

        eps = self.eps
        generator = torch.Generator().manual_seed(self.seed)
        handles = [block.register_forward_hook(jitter) for block in self.lm.blocks]
        try:
            found = logits(self.lm, self.prompts, [None] * len(self.prompts))
        finally:
            for handle in handles:
                handle.remove()
        return distance(found, self.plain)

    @cached_property
    def tolerance(self) -> float:
        """Relative error that rounding explains: 16 × `rounding`, between 4 ε and √ε of the dtype.

        A block rounds about thirteen tensors, not one (√13), two runs are compared (√2), and the largest
        difference of many tokens counts (3): 16 in all. √ε is half the digits: no rounding, whatever the noise.
        """
        return float(min(max(ROUNDINGS * self.rounding, 4 * self.eps), self.eps**0.5))

    @cached_property
    def spread(self) -> float:
        """Standard deviation of a token's logits, the unit of the lead with which a token is chosen."""
        import torch

        return float(torch.cat(self.plain).std(-1).mean())


def make_probe(
    lm: LanguageModel,
    layers: Sequence[int] | None = None,
    *,
    prompts: int = 4,
    seed: int = 0,
    placed: bool = False,
    again: Callable[[], LanguageModel] | None = None,
) -> Probe:
    """Prompts of random tokens (special ones left out), the first, third and last block by default.

    Raises:
        SteerkitError: a layer out of range, or fewer positions than are checked.
    """
    chosen = tuple(sorted({0, min(2, lm.depth - 1), lm.depth - 1} if layers is None else set(layers)))
    for layer in chosen:
        lm.check_layer(layer, "--layers")
    check_lengths(lm, 2 * LONGEST, "what is checked")  # prompts, and a few tokens more
    draw = random.Random(seed)
    vocabulary = int(lm.config.vocab_size)
    special = {*lm.tokenizer.all_special_ids, *getattr(lm.tokenizer, "added_tokens_decoder", {})}
    lengths = [SHORTEST, LONGEST, *(draw.randint(SHORTEST, LONGEST) for _ in range(prompts))][:prompts]
    if lm.batches != "padded":
        lengths = [lengths[place % 2] for place in range(prompts)]  # so that some share a batch
    first = [lm.config.bos_token_id] if isinstance(getattr(lm.config, "bos_token_id", None), int) else []
    found = []
    for length in lengths:
        ids = list(first)
        while len(ids) < length:
            token = draw.randrange(vocabulary)
            ids += [] if token in special else [token]
        found.append(tuple(ids))
    return Probe(lm, chosen, tuple(found), seed, placed, again)


def item_of(name: str, ids: Sequence[int]) -> Item:
    """A trace whose first two tokens are its prompt, with spans at changing places."""
    trace = Trace(
        id=name,
        prompt_id=name,
        prompt="",
        text="x" * (len(ids) - 2),
        prompt_ids=tuple(ids[:2]),
        ids=tuple(ids[2:]),
        starts=tuple(range(len(ids) - 2)),
    )
    places = (3, 3 + len(ids) % 3, len(ids) - 1)
    spans = [
        Span(trace_id=name, label="ab"[number % 2], judge="check", start=at - 2, end=at - 1, first=at, last=at)
        for number, at in enumerate(places)
    ]
    return Item(trace, spans, ids)


def alone(lm: LanguageModel, items: Sequence[Item], layer: int) -> list[Tensor]:
    """[T, H] output of a block for each item, one forward an item, in the items' order."""
    found = {batch[0].trace.id: hidden[0] for batch, hidden in read_layer(lm, items, layer, batch_tokens=1)}
    return [found[item.trace.id] for item in items]
