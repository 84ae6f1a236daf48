"""Sampling whose noise is a function of the row's key and step: texts don't depend on their neighbours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, ValidationError

from steerkit.errors import InputError, Problem
from steerkit.generation.filters import Filters
from steerkit.interfaces import Config
from steerkit.stats.noise import gumbel

if TYPE_CHECKING:
    from torch import Tensor

STREAM = 0x67656E  # separates sampling noise from steerers' noise

Temperature = Annotated[float, Field(ge=0)]
TopK = Annotated[int, Field(ge=1)]
TopP = Annotated[float, Field(gt=0, le=1)]
MinP = Annotated[float, Field(ge=0, le=1)]


class Sampling(Config):
    """How a token is drawn from logits: softmax(logits / temperature), what the filters remove left out.

    The filters are those of transformers' logits processors, in their order: top_k, top_p, min_p.
    """

    temperature: Temperature = 0.7
    """0 is greedy, whatever the filters are."""
    top_k: TopK | None = None
    """Keep this many of the likeliest tokens, and those as likely as the last of them; all when left out."""
    top_p: TopP | None = None
    """Keep the likeliest tokens, as few as have this probability together (of those that top_k left)."""
    min_p: MinP | None = None
    """Keep tokens that are at least this many times as likely as the likeliest."""

    @classmethod
    def of(cls, **values: Any) -> Self:
        """Settings that a user gave in code or on the command line; None counts as left out.

        Raises:
            InputError: all that is wrong with them.
        """
        try:
            return cls(**{name: value for name, value in values.items() if value is not None})
        except ValidationError as error:
            problems = [
                Problem(".".join(map(str, e["loc"])), f"{e['msg'][:1].lower()}{e['msg'][1:]}, not {e['input']!r}")
                for e in error.errors()
            ]
            raise InputError("sampling", problems) from error

    def filters(self) -> Filters | None:
        """What removes tokens; None where every token stays."""
        top_p = None if self.top_p == 1 else self.top_p
        if not self.temperature or not (self.top_k or top_p or self.min_p):
            return None
        return Filters(self.top_k, top_p, self.min_p or None)

    def __str__(self) -> str:
        if not self.temperature:
            return "greedy"
        given = ((name, getattr(self, name)) for name in ("temperature", "top_k", "top_p", "min_p"))
        return ", ".join(f"{name} {value:g}" for name, value in given if value is not None)


GREEDY = Sampling(temperature=0)

NOT_FINITE = -1
"""The token of a line whose scores are not finite: NaN's argmax would be a token like any other."""


class Sampler:
    """Draws tokens: the argmax of logits / T + Gumbel noise of (row key, step) over the tokens that filters keep.

    That is a sample of the softmax over these tokens (Gumbel-max). A filter removes tokens and leaves the noise of
    the others as it is, so rows with the same noise stay paired under any filter.
    """

    def __init__(self, sampling: Sampling, device: Any) -> None:
        self.temperature, self.device = sampling.temperature, device
        self.filters = sampling.filters()

    def assign(self, keys: Sequence[int], born: Sequence[int]) -> None:
        """The lines' rows: their keys, and the batch's step at which each one's first token is drawn."""
        import torch

        # Rows of one prompt and seed share their noise: it is drawn once for all conditions.
        places: dict[tuple[int, int], int] = {}
        inverse = [places.setdefault(pair, len(places)) for pair in zip(keys, born, strict=True)]
        self.unique = torch.tensor([key for key, _ in places], device=self.device)
        self.born = torch.tensor([first for _, first in places], device=self.device)
        self.inverse = None if len(places) == len(inverse) else torch.tensor(inverse, device=self.device)

    def draw(self, logits: Tensor, step: int) -> tuple[Tensor, list[int], Tensor]:
        """The batch's step for [B, V] logits.

        Returns:
            [B] the token that each line draws, the same as a list (NOT_FINITE for a line without a finite best
            score), and the [B, V] scores whose largest it is.
        """
        import torch

        for scores, short in self._attempts(logits.float(), step):
            chosen = scores.argmax(-1)
            # One transfer a step: whether the filters saw enough comes with the tokens.
            told = _checked(scores, chosen)
            tokens = (told if short is None else torch.cat([told, short[None]])).tolist()
            if short is None or not tokens.pop():
                break
        return chosen, tokens, scores

    def scores(self, logits: Tensor, step: int) -> Tensor:
        """[B, V] float32 logits / T + noise, -inf where a filter removes the token; for T = 0 the logits."""
        return next(scores for scores, short in self._attempts(logits.float(), step) if short is None or not short)

    def _attempts(self, logits: Tensor, step: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Scores, and whether the filters saw too little for them: then the next ones are to be taken."""
        import torch

        noisy = self._noisy(logits, step)
        if self.filters is None:
            yield noisy, None
            return
        scaled = logits / self.temperature
        while True:
            keep, short = self.filters.keep(scaled)
            yield noisy.masked_fill(~keep, -torch.inf), short
            self.filters.widen()

    def _noisy(self, logits: Tensor, step: int) -> Tensor:
        if self.temperature == 0:
            return logits
        noise = gumbel(self.unique, step - self.born, stream=STREAM, size=logits.shape[-1])
        if self.inverse is not None:
            noise = noise[self.inverse]
        return noise.add_(logits, alpha=1 / self.temperature)


def _checked(scores: Tensor, chosen: Tensor) -> Tensor:
    """[B] the chosen tokens; NOT_FINITE where the best of the scores [B, V] is NaN or infinite. No sync."""
    best = scores.gather(1, chosen[:, None])[:, 0]
    return chosen.where(best - best == 0, NOT_FINITE)  # inf - inf and NaN - NaN are NaN


def leads(scores: Tensor) -> list[float]:
    """By how much each line's best token leads its second; inf where the filters keep one token."""
    top = scores.topk(2, -1).values
    return (top[:, 0] - top[:, 1]).tolist()
