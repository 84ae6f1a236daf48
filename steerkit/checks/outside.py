"""What transformers itself says: its `generate`, free of the model's generation config, and its hidden states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from steerkit.checks.forward import padded, running
from steerkit.errors import SteerkitError
from steerkit.generation.stream import end_ids

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.models.language_model import LanguageModel


def hidden_states_by_hf(lm: LanguageModel, ids: Sequence[int]) -> list[Tensor]:
    """[T, H] of each block's output by `output_hidden_states`; the last one as it is told, often after the norm.

    hidden_states[0] is what the first block is given, by which the others are numbered; Mamba leaves it out.

    Raises:
        SteerkitError: there are not as many as blocks.
    """
    import torch

    from steerkit.checks.forward import distance, inputs_of

    with running(lm), inputs_of({0: lm.blocks[0]}) as first:
        tokens = torch.tensor([list(ids)], device=lm.device)
        told = lm.model(input_ids=tokens, output_hidden_states=True, use_cache=False).hidden_states
    if len(told) != lm.depth + 1:
        raise SteerkitError(f"the model tells {len(told)} hidden states for {lm.depth} blocks")
    begins = distance([told[0][0]], [first[0][0]]) < 1e-3
    return [state[0] for state in (told[1:] if begins else (*told[:-2], told[-1]))]


def greedy_by_hf(
    lm: LanguageModel, prompts: Sequence[Sequence[int]], count: int, *, to_the_end: bool = False
) -> list[list[int]]:
    """New ids of each prompt from one left-padded `model.generate`; up to the end token, without it.

    Args:
        count: tokens at most.
        to_the_end: exactly `count` tokens, whether or not an end token is among them.
    """
    import torch

    inputs = padded(lm, prompts)
    longest = inputs["input_ids"].shape[1]
    ends = [] if to_the_end else end_ids(lm)
    with torch.inference_mode(), only_ends(lm, ends):
        found = lm.model.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=count,
            do_sample=False,
        )[:, longest:].tolist()
    return [row[: next((at for at, token in enumerate(row) if token in ends), len(row))] for row in found]


@contextmanager
def only_ends(lm: LanguageModel, ends: Sequence[int]) -> Iterator[None]:
    """Inside, the model's generation config holds these end tokens and nothing else (no penalties, no warpers)."""
    from transformers import GenerationConfig

    model: Any = lm.model.get_base_model() if lm.model_is_wrapped else lm.model
    before = model.generation_config
    model.generation_config = GenerationConfig(eos_token_id=list(ends) or None, pad_token_id=0)
    try:
        yield
    finally:
        model.generation_config = before
