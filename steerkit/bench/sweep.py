"""A steered sweep to measure, prompts × conditions, and the same rows through an unsteered `model.generate`."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from steerkit.generation.sampling import Sampling
from steerkit.generation.stream import GenerationRow, generate
from steerkit.interfaces import Steerer
from steerkit.interventions.edits import Edit
from steerkit.models.language_model import LanguageModel
from steerkit.stats.noise import key_of

if TYPE_CHECKING:
    from torch import Tensor

STRENGTHS = 5


def third(lm: LanguageModel) -> int:
    """The 0-based block after which a third of the depth has run."""
    return max(round(lm.depth / 3) - 1, 0)


@dataclass(frozen=True)
class Sweep:
    """Prompts × conditions, condition after condition, each condition with a direction and strength of its own.

    Attributes:
        prompts: ids.
        edits: one a condition, all at one block.
        new_tokens: at most so many a row.
        sampling: how tokens are drawn.
    """

    lm: LanguageModel
    prompts: list[list[int]]
    edits: list[Edit]
    new_tokens: int
    sampling: Sampling

    @property
    def rows(self) -> list[GenerationRow]:
        """Every prompt under the first condition, then under the second, …"""
        return [
            GenerationRow(prompt, key_of("sample", place), (replace(edit, key=key_of("noise", place)),))
            for edit in self.edits
            for place, prompt in enumerate(self.prompts)
        ]

    def part(self, conditions: int, prompts: int | None = None, new_tokens: int | None = None) -> Sweep:
        """The first conditions, prompts and tokens alone."""
        return replace(
            self,
            edits=self.edits[:conditions],
            prompts=self.prompts[:prompts],
            new_tokens=new_tokens or self.new_tokens,
        )

    def by_steerkit(self, batch_size: int | None, *, steered: bool = True) -> int:
        """Generate all rows; number of new tokens."""
        return sum(len(ids) for ids in self.texts(batch_size, steered=steered))

    def texts(self, batch_size: int | None, *, steered: bool = True) -> list[list[int]]:
        """New ids of every row."""
        rows = self.rows if steered else [replace(row, edits=()) for row in self.rows]
        made = generate(
            self.lm, rows, max_new_tokens=self.new_tokens, batch_size=batch_size, **self.sampling.model_dump()
        )
        return [text.ids for text in made]

    def by_transformers(self, batch_size: int) -> int:
        """The same prompts, as often, through an unsteered `model.generate`; number of new tokens."""
        prompts = [row.prompt_ids for row in self.rows]
        found = 0
        for begin in range(0, len(prompts), batch_size):
            found += sum(map(len, self.hf(prompts[begin : begin + batch_size])))
        return found

    def hf(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """New ids that `model.generate` gives for one batch, the end of sequence excluded."""
        ids, mask = (part.to(self.lm.device) for part in left_pad(prompts))
        made = self.lm.model.generate(ids, attention_mask=mask, generation_config=self.config())
        return [trim(row, self.ends) for row in made[:, ids.shape[1] :].tolist()]

    @property
    def ends(self) -> list[int]:
        found = self.lm.model.generation_config.eos_token_id
        return found if isinstance(found, list) else [] if found is None else [found]

    def config(self) -> Any:
        """transformers' settings for the same work."""
        from transformers import GenerationConfig

        given = self.sampling.model_dump(exclude_none=True)
        sampling = {"do_sample": True, "top_k": 0, **given} if self.sampling.temperature else {}
        return GenerationConfig(
            max_new_tokens=self.new_tokens, pad_token_id=0, eos_token_id=self.ends or None, **sampling
        )


def left_pad(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """[B, T] ids and mask."""
    import torch

    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(p)) + list(p) for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    return ids, mask


def trim(ids: Sequence[int], ends: Sequence[int]) -> list[int]:
    """Ids up to the first end of sequence."""
    place = next((i for i, token in enumerate(ids) if token in ends), len(ids))
    return list(ids[:place])


def make_sweep(
    lm: LanguageModel,
    steerer: Steerer,
    *,
    prompts: int,
    conditions: int,
    new_tokens: int,
    sampling: Sampling,
    prompt_tokens: int | tuple[int, int] = 32,
) -> Sweep:
    """A sweep over random prompts with random unit directions, strengths 1 to 5, at a third of the depth.

    Args:
        prompt_tokens: length of each prompt, or the shortest and longest.
    """
    import torch

    draw = random.Random(0)
    low, high = prompt_tokens if isinstance(prompt_tokens, tuple) else (prompt_tokens, prompt_tokens)
    vocabulary = lm.config.vocab_size
    made = [[draw.randrange(4, vocabulary) for _ in range(draw.randint(low, high))] for _ in range(prompts)]
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(conditions, lm.width, generator=generator), dim=1)
    own = [None if steerer.direction == "none" else direction for direction in directions]
    edits = [Edit(steerer, third(lm), float(1 + i % STRENGTHS), direction) for i, direction in enumerate(own)]
    return Sweep(lm, made, edits, new_tokens, sampling)


@contextmanager
def ending(lm: LanguageModel, mean_tokens: float | None) -> Iterator[LanguageModel]:
    """The model with ends of sequence of its own choosing, until the block ends.

    Args:
        mean_tokens: one id in so many of the vocabulary ends a text, so that a random model's texts get lengths
            of that mean, exponentially spread, on any engine; None: no text ever ends.
    """
    config = lm.model.generation_config
    before = config.eos_token_id
    tokenizer = copy.deepcopy(lm.tokenizer)
    tokenizer.eos_token = None
    chosen = None
    if mean_tokens is not None:
        vocabulary = lm.config.vocab_size
        chosen = sorted(random.Random(1).sample(range(vocabulary), max(round(vocabulary / mean_tokens), 1)))
    config.eos_token_id = chosen
    try:
        yield replace(lm, tokenizer=tokenizer)
    finally:
        config.eos_token_id = before
