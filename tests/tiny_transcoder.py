"""Tiny models with a transcoder adapter that has random weights."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from steerkit_plugins.transcoder.adapter import TranscoderAdapter
from steerkit_plugins.transcoder.objective import Bridging
from steerkit_plugins.transcoder.units import transcoder_groups
from torch import Tensor
from zoo import breed

from steerkit.models.language_model import LanguageModel
from steerkit.models.parts_from import put_parts
from steerkit.training.contract import Batch
from steerkit.training.masks import IGNORED


def adapter(**options: Any) -> TranscoderAdapter:
    return TranscoderAdapter(**{"features": 6, **options})


def shaken(lm: LanguageModel, seed: int = 0, size: float = 0.3) -> LanguageModel:
    """The model with random weights in its transcoders."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in lm.model.named_parameters():
            if "transcoder_parts" in name:
                weight.copy_(size * torch.randn(weight.shape, generator=generator))
    return lm


def with_transcoder(architecture: str, seed: int = 0, **options: Any) -> LanguageModel:
    """A model of its own with a transcoder of random weights beside each MLP."""
    attached = adapter(**options).attach(breed(architecture, seed), seed=seed)
    attached.model.eval()
    return shaken(attached, seed)


def logits(lm: LanguageModel, ids: Any = ((5, 9, 12, 33, 7, 20),)) -> Tensor:
    with torch.no_grad():
        found: Tensor = lm.model(torch.tensor(ids), use_cache=False).logits
    return found


def hybrid(architecture: str, *, on: bool = True, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """A model with the MLPs of another, as a run loads it; with a transcoder of random weights where it is on."""
    lm, base = breed(architecture, 1), breed(architecture, 0)
    for each in (lm, base):
        each.model.to(dtype)
    lm.model.steerkit_swapped = put_parts(lm, base, ["mlp"])
    if not on:
        return lm
    attached = adapter().attach(lm, seed=0)
    attached.model.to(dtype).eval()
    return shaken(attached)


def batch(*, padded: bool = True, rows: slice = slice(None)) -> Batch:
    """Three rows of random ids; the first four tokens of each are the prompt."""
    ids = torch.randint(3, 60, (3, 11), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    if padded:
        mask[1, 8:] = mask[2, 6:] = 0
    labels = ids.masked_fill(mask == 0, IGNORED)
    labels[:, :4] = IGNORED
    chosen = tuple(range(3)[rows])
    return Batch(ids[rows], mask[rows], labels[rows], (4,) * len(chosen), chosen, int((labels != IGNORED).sum()))


class AtBlock(Bridging):
    """The objective with a cut that is not drawn."""

    def __init__(self, cut: int, **options: Any) -> None:
        super().__init__(**options)
        self.cut = cut

    def _cut(self, lm: LanguageModel, batch: Batch) -> int:
        return self.cut


def whole_pass(lm: LanguageModel, given: Batch, target: Collection[int]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Logits, blocks' outputs and features of a pass whose modules are exchanged where the target's stand."""
    model, outputs, features = lm.transformer, [], []
    swapped = model.steerkit_swapped.modules
    own = {name: model.get_submodule(name) for name in swapped}
    handles = [
        block.register_forward_hook(lambda m, a, out: outputs.append(out[0] if isinstance(out, tuple) else out))
        for block in lm.blocks
    ]
    handles += [
        g.transcoder.code.register_forward_hook(lambda m, a, f: features.append(f)) for g in transcoder_groups(lm)
    ]

    def put(name: str, module: Any) -> None:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, module)

    for layer, (name, (before, _)) in enumerate(swapped.items()):
        put(name, before if layer in target else own[name])
    logits = model(input_ids=given.ids, attention_mask=given.mask, use_cache=False).logits
    for name, module in own.items():
        put(name, module)
    for handle in handles:
        handle.remove()
    return logits, outputs, features
