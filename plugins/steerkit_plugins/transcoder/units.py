"""A transcoder's features as units: f = ReLU(W_enc x + b_enc), which add f · s W_dec to the MLP's output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steerkit.errors import SteerkitError
from steerkit.models.units import UnitGroup

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.models.language_model import LanguageModel
    from steerkit_plugins.transcoder.tuner import Transcoder

PART = "mlp"


@dataclass(frozen=True, eq=False)
class TranscoderGroup(UnitGroup):
    """The features of one block's transcoder.

    Attributes:
        transcoder: encoder, decoder and scale.
    """

    transcoder: Transcoder

    @property
    def count(self) -> int:
        return self.transcoder.encoder.out_features

    @property
    def writes(self) -> Tensor:
        return self.transcoder.scale * self.transcoder.decoder.weight.detach().float().T

    def activations(self, x: Tensor) -> Tensor:
        return self.transcoder.encode(x).float()

    def watch(self, tell: Callable[[Tensor], None]) -> Any:
        if self._runs:
            return self.transcoder.code.register_forward_hook(lambda module, args, f: tell(f))
        return self.module.register_forward_pre_hook(lambda module, args: tell(self.activations(args[0])))

    def edit(self, change: Callable[[Tensor], Tensor]) -> Any:
        if not self._runs:
            raise SteerkitError(f"block {self.layer}: its transcoder is turned off, so that features can't be changed")
        return self.transcoder.code.register_forward_hook(lambda module, args, f: change(f))

    @property
    def _runs(self) -> bool:
        module: Any = self.module
        return module.transcoder is self.transcoder


def transcoder_groups(lm: LanguageModel) -> list[TranscoderGroup]:
    """The features of a model's transcoder adapter, block by block.

    Raises:
        SteerkitError: the model has no such adapter, or several at once.
    """
    found = []
    for layer, block in enumerate(lm.blocks):
        for name, module in block.named_modules():
            parts: Any = getattr(module, "transcoder_parts", None)
            if parts is None:
                continue
            if len(parts) != 1:
                raise SteerkitError(f"{lm.name}: block {layer} has {len(parts)} transcoders; load one adapter")
            found.append(TranscoderGroup(layer, PART, name, module, next(iter(parts.values()))))
    if not found:
        raise SteerkitError(f"{lm.name}: has no transcoder adapter; load it with one (`adapter:`)")
    return found
