"""Plain forwards of padded batches, steered row by row, and how far two results lie apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from steerkit.interventions.edits import Edit, EditSet
from steerkit.interventions.steering import Steering
from steerkit.models.adapter_layout import adapter_state

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.models.language_model import LanguageModel

Side = Literal["left", "right"]


@contextmanager
def running(lm: LanguageModel) -> Iterator[None]:
    """Without gradients, and with a PEFT adapter on or off as `lm` says."""
    import torch

    with torch.inference_mode(), adapter_state(lm):
        yield


def padded(lm: LanguageModel, prompts: Sequence[Sequence[int]], side: Side = "left") -> dict[str, Tensor]:
    """The decoder's inputs [B, T] for prompts of unequal length."""
    import torch

    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        place = slice(longest - len(prompt), None) if side == "left" else slice(len(prompt))
        ids[row, place] = torch.tensor(list(prompt))
        mask[row, place] = 1
    position = (mask.cumsum(-1) - 1).clamp(min=0)
    return {
        name: value.to(lm.device)
        for name, value in (("input_ids", ids), ("attention_mask", mask), ("position_ids", position))
    }


def alike(lm: LanguageModel, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Places of the prompts that may share a forward: all of them, those of each length, or each alone."""
    if lm.batches == "padded":
        return [list(range(len(prompts)))]
    if lm.batches == "alone":
        return [[place] for place in range(len(prompts))]
    of_length: dict[int, list[int]] = {}
    for place, prompt in enumerate(prompts):
        of_length.setdefault(len(prompt), []).append(place)
    return list(of_length.values())


def logits(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    edits: Sequence[Edit | EditSet | None],
    *,
    side: Side = "left",
    prompt_lengths: Sequence[int] | None = None,
) -> list[Tensor]:
    """[T, V] float32 logits of each prompt's own tokens, in one batch (or one a length) without a cache."""
    found: dict[int, Tensor] = {}
    for places in alike(lm, prompts):
        inputs = padded(lm, [prompts[place] for place in places], side)
        lengths = None if prompt_lengths is None else [prompt_lengths[place] for place in places]
        with running(lm), Steering(lm, [edits[place] for place in places], lengths):
            told = lm.model(**inputs, use_cache=False).logits
        found |= zip(places, own_tokens(told, inputs["attention_mask"]), strict=True)
    return [found[place] for place in range(len(prompts))]


def own_tokens(found: Tensor, mask: Tensor) -> list[Tensor]:
    """[B, T, X] → for each row [its tokens, X] float32 on the CPU, padding left out."""
    return [row[keep.to(row.device).bool()].float().cpu() for row, keep in zip(found, mask, strict=True)]


def each_alone(lm: LanguageModel, prompts: Sequence[Sequence[int]], edits: Sequence[Edit | None]) -> list[Tensor]:
    """`logits` of one forward a prompt."""
    return [logits(lm, [prompt], [edit])[0] for prompt, edit in zip(prompts, edits, strict=True)]


def distance(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Largest relative L2 difference of a token's vector, over all rows; NaN counts as infinite."""
    import torch

    worst = 0.0
    for a, b in zip(found, expected, strict=True):
        if a.shape != b.shape:
            return float("inf")
        a, b = a.float().cpu(), b.float().cpu()
        size = (a - b).norm(dim=-1) / b.norm(dim=-1).clamp(min=torch.finfo(torch.float32).tiny)
        worst = max(worst, float(torch.nan_to_num(size, nan=float("inf")).max()))
    return worst


@contextmanager
def inputs_of(modules: dict[int, Any]) -> Iterator[dict[int, Tensor]]:
    """Inside, the hidden states [B, T, H] that each module is given, under its key."""
    seen: dict[int, Tensor] = {}

    def keep(key: int) -> Any:
        def hook(module: Any, args: Any, kwargs: Any) -> None:
            seen[key] = (args[0] if args else kwargs["hidden_states"]).detach().float().cpu()

        return hook

    handles = [module.register_forward_pre_hook(keep(key), with_kwargs=True) for key, module in modules.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
