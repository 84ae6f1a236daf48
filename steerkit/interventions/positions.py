"""Which tokens a forward pass brings: their positions, which of them are padding, and which belong to the prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from steerkit.models.supported import CACHE_ARGUMENTS

if TYPE_CHECKING:
    from torch import Tensor

Phase = Literal["prompt", "generated"]


@dataclass(frozen=True)
class Call:
    """The tokens of one forward.

    Attributes:
        position: [B, T] token index in the row's own sequence, padding not counted.
        real: [B, T] False for padding; None when there is none.
        prompt: [B, T] which tokens belong to the prompt; None when `phase` says it, or when it is unknown.
        phase: what all of the tokens are; None when both kinds may be there.
    """

    position: Tensor
    real: Tensor | None
    prompt: Tensor | None
    phase: Phase | None

    def last(self, length: int) -> Call:
        """The last tokens alone: blocks that read earlier ones' keys may be given no more than logits are asked of."""
        if length == self.position.shape[1]:
            return self
        real, prompt = (None if mask is None else mask[:, -length:] for mask in (self.real, self.prompt))
        return Call(self.position[:, -length:], real, prompt, self.phase)


@dataclass(frozen=True)
class Started:
    """The inputs of a running HF `generate`: `columns` of prompt, padding included, and their mask [B, columns]."""

    columns: int
    mask: Tensor | None


class Positions:
    """Follows the forwards of one `with`, from the arguments that the decoder gets.

    Inside HF `generate` the prompt is what `generate` was given, however it is read: whole, in chunks, after a
    cached prefix, or again with every new token. In forwards of the caller's own, a first pass (empty cache) is the
    prompt; what comes later is generated. `lengths` (tokens of each row's prompt) settles it beforehand.
    """

    def __init__(self, lengths: Sequence[int] | None = None) -> None:
        self._given = lengths
        self._lengths: Tensor | None = None
        self._first: Tensor | None = None  # ids of the first pass, where decoding goes on without a cache
        self.started: Started | None = None  # set while `generate` runs
        self._cache: Any = None  # the last call's
        self._seen: Tensor | None = None  # [B, T] positions of its tokens

    def call(
        self, tokens: Tensor, given: Mapping[str, Any], phase: Phase | None, position: Tensor | None = None
    ) -> Call:
        """What one forward brings.

        Args:
            tokens: [B, T] ids, or [B, T, H] embeddings.
            given: the decoder's arguments.
            phase: what the tokens are, where the caller knows.
            position: [B, T] the tokens' positions, where the caller knows.
        """
        cache = next((given[name] for name in CACHE_ARGUMENTS if given.get(name) is not None), None)
        begin = self._begin(cache, len(tokens))
        past = begin if isinstance(begin, int) else int(begin.max())
        mask = given.get("attention_mask")
        if isinstance(mask, dict) or mask is None or mask.dim() != 2:  # prepared for the attention, a kind each
            mask = None
        if phase is None and self.started is not None:
            mask = self._mask_in_generate(tokens, past) if mask is None else mask
        position, real = _places(tokens, begin, mask, position if phase else None)
        self._cache, self._seen = cache, position
        if phase is not None:
            return Call(position, real, None, phase)
        if self._given is None and self.started is not None:
            return self._in_generate(position, real, past)
        return self._by_hand(tokens, position, real, past, cache)

    def _begin(self, cache: Any, rows: int) -> int | Tensor:
        """Tokens in a cache. One of recurrent states alone doesn't count them: [B, 1] those that came here before."""
        if cache is None:
            return 0
        try:
            return int(cache.get_seq_length())
        except ValueError:
            goes_on = cache is self._cache and self._seen is not None and len(self._seen) == rows
            return self._seen[:, -1:] + 1 if goes_on and self._seen is not None else 0

    def _mask_in_generate(self, tokens: Tensor, past: int) -> Tensor | None:
        """[B, past + T] of the padding that `generate` was given; None when there is none."""
        import torch

        mask = None if self.started is None else self.started.mask
        if mask is None:
            return None
        mask = mask.repeat_interleave(len(tokens) // len(mask), 0)  # beams, and several sequences a prompt
        more = past + tokens.shape[1] - mask.shape[1]
        return torch.nn.functional.pad(mask, (0, more), value=1) if more > 0 else mask[:, : past + tokens.shape[1]]

    def _in_generate(self, position: Tensor, real: Tensor | None, past: int) -> Call:
        import torch

        columns = 0 if self.started is None else self.started.columns
        length = position.shape[1]
        if past >= columns:
            return Call(position, real, None, "generated")
        if past + length <= columns:
            return Call(position, real, None, "prompt")
        column = torch.arange(past, past + length, device=position.device)
        return Call(position, real, (column < columns).expand(position.shape), None)

    def _by_hand(self, tokens: Tensor, position: Tensor, real: Tensor | None, past: int, cache: Any) -> Call:
        import torch

        if self._given is not None and self._lengths is None:
            self._lengths = torch.tensor(self._given, device=tokens.device)[:, None]
        elif past == 0 and self._given is None and not (cache is None and self._repeats_prompt(tokens)):
            self._lengths = (position[:, -1:] + 1).clone()
            self._first = tokens if cache is None else None
        decoding = past > 0 and tokens.shape[1] == 1 and self._given is None and self._lengths is not None
        if decoding:
            return Call(position, real, None, "generated")
        lengths = self._lengths
        prompt = None if lengths is None else position < lengths.to(position.device)
        return Call(position, real, prompt, None)

    def _repeats_prompt(self, tokens: Tensor) -> bool:
        """Whether these are the first pass's tokens and more: a decoding step without a cache."""
        import torch

        first = self._first
        if first is None or len(tokens) != len(first) or tokens.shape[1] <= first.shape[1]:
            return False
        return torch.equal(tokens[:, : first.shape[1]], first)


def _places(
    tokens: Tensor, begin: int | Tensor, mask: Tensor | None, own: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """[B, T] positions and, where some are padding, which are not."""
    import torch

    rows, length = tokens.shape[:2]
    real = mask[:, -length:].bool() if mask is not None and length > 1 else None
    if own is not None:
        return own, real
    if mask is None:
        return begin + torch.arange(length, device=tokens.device).expand(rows, length), None
    if length > 1:
        return (mask.cumsum(-1) - 1)[:, -length:], real
    return mask.sum(-1, keepdim=True) - 1, None
