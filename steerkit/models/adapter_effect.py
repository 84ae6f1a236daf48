"""What an adapter changes: something, and inside the decoder that steerkit reads and steers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from steerkit.errors import SteerkitError
from steerkit.models.adapter_kinds import own_tokens
from steerkit.models.adapter_layout import adapter_state
from steerkit.models.block_output import hidden_of
from steerkit.models.language_model import LanguageModel

if TYPE_CHECKING:
    from torch import Tensor

TRIED = 16  # tokens on which an adapter must change something


def check_effect(lm: LanguageModel) -> None:
    """Raises: SteerkitError when a model's adapter changes nothing, or changes what steerkit doesn't read."""
    import torch

    ids = tried_ids(lm)
    change, apart = effect(lm, [ids])
    if change == 0 and not _copies_differ(lm.model):
        raise SteerkitError(
            f"{lm.name}: the adapter changes nothing: logits are the same with and without it (an adapter that was "
            "never trained is like that)"
        )
    if not apart <= torch.finfo(torch.bfloat16).eps:
        raise SteerkitError(
            f"{lm.name}: the adapter acts outside the decoder that steerkit reads and steers: block outputs differ by "
            f"{apart:.2g}, relative"
        )


def effect(lm: LanguageModel, prompts: Sequence[Sequence[int]]) -> tuple[float, float]:
    """How much an adapter changes the logits, and how far the decoder run by itself is from the whole model's.

    Both relative L2 norms, the largest of all prompts; the second of the last block's outputs.
    """
    import torch

    on, off = LanguageModel(lm.name, lm.model, None, adapter=True), LanguageModel(lm.name, lm.model, None)
    change = apart = 0.0
    for prompt in prompts:
        ids = torch.tensor([list(prompt)], device=lm.device)
        with torch.inference_mode():
            with adapter_state(off):
                plain = lm.model(input_ids=ids, use_cache=False).logits
            with adapter_state(on):
                adapted, whole = _last_block(lm, lambda: lm.model(input_ids=ids, use_cache=False).logits)  # noqa: B023
                _, alone = _last_block(lm, lambda: lm.decoder(input_ids=ids, use_cache=False))  # noqa: B023
        change, apart = max(change, _distance(adapted, plain)), max(apart, _distance(alone, whole))
    return change, apart


def tried_ids(lm: LanguageModel) -> list[int]:
    """Ids from the whole vocabulary, and those that an adapter has vectors of its own for."""
    rows = lm.model.get_input_embeddings().weight.shape[0]
    own = [index for config in lm.model.peft_config.values() for index in own_tokens(config)]
    return [*own[:TRIED], *range(0, rows, max(1, rows // TRIED))]


def _last_block(lm: LanguageModel, run: Any) -> tuple[Any, Tensor]:
    seen: list[Tensor] = []
    handle = lm.blocks[-1].register_forward_hook(lambda module, args, output: seen.append(hidden_of(output)))
    try:
        return run(), seen[-1]
    finally:
        handle.remove()


def _distance(a: Tensor, b: Tensor) -> float:
    """Relative L2 distance; infinite for other shapes, and for what is not a number."""
    if a.shape != b.shape:
        return float("inf")
    size = float((a - b).float().norm() / b.float().norm().clamp(min=1e-30))
    return size if math.isfinite(size) else float("inf")


def _copies_differ(model: Any) -> bool:
    """Whether a module that the adapter holds a copy of (`modules_to_save`) was trained."""
    import torch

    for module in model.modules():
        copies = getattr(module, "modules_to_save", None)
        original = getattr(module, "original_module", None)
        if copies is None or original is None:
            continue
        own = dict(original.named_parameters())
        for trained in copies.values():
            if any(not torch.equal(value, own[key]) for key, value in trained.named_parameters() if key in own):
                return True
    return False
