"""The adapter as PEFT has adapters: a wrapper around each MLP that adds a transcoder's output to the MLP's.

Shapes: B rows, T tokens, D the width of the MLP's input, D_out of its output, F features. This module imports torch and
PEFT; `adapter.TranscoderAdapter.bring` imports it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from peft.config import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import Tensor, nn

from steerkit.models.block_output import hidden_of, with_hidden
from steerkit_plugins.transcoder.kind import KIND

PREFIX = "transcoder_"


@dataclass
class TranscoderConfig(PeftConfig):
    """What `adapter_config.json` says.

    Attributes:
        target_modules: dotted names of the MLPs.
        features: F, the same in every block.
        decoder_bias: whether the decoder has a bias, which is added where no feature is active, too.
        scale: what the transcoder's output is multiplied by; 1 is the adapter as it was trained.
    """

    target_modules: Any = None
    features: int = field(default=8192)
    decoder_bias: bool = field(default=True)
    scale: float = field(default=1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = KIND
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)


class Transcoder(nn.Module):
    """T(x) = W_dec f + b_dec with f = ReLU(W_enc x + b_enc), times a scale (arXiv 2602.20904, section 3.1).

    The encoder starts at U(−1/√D, 1/√D) and all else at 0, so that an untrained one adds nothing. Hooks on `code` see f
    [..., F], and what they return is decoded in its place.
    """

    def __init__(self, width: int, out: int, features: int, *, bias: bool, scale: float) -> None:
        super().__init__()
        self.encoder = nn.Linear(width, features)
        self.code = nn.Identity()
        self.decoder = nn.Linear(features, out, bias=bias)
        self.scale = scale
        with torch.no_grad():
            self.encoder.weight.uniform_(-(width**-0.5), width**-0.5)
            self.encoder.bias.zero_()
            self.decoder.weight.zero_()
            if bias:
                self.decoder.bias.zero_()

    def encode(self, x: Tensor) -> Tensor:
        """[..., D] → f [..., F]."""
        found: Tensor = self.encoder(x.to(self.encoder.weight.dtype)).relu()
        return found

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] → [..., D_out], in the number format of x."""
        return (self.scale * self.decoder(self.code(self.encode(x)))).to(x.dtype)


class TranscoderLayer(nn.Module, BaseTunerLayer):
    """An MLP with a transcoder beside it, both of the MLP's input; off, the MLP alone."""

    adapter_layer_names = ("transcoder_parts",)
    other_param_names = ()
    transcoder_parts: nn.ModuleDict
    set_adapter: Any  # PEFT's

    def __init__(self, base_layer: nn.Module, name: str, config: TranscoderConfig, sizes: tuple[int, int]) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.transcoder_parts = nn.ModuleDict()
        self.merged_adapters: list[str] = []
        self._sizes = sizes
        self.update_layer(name, config)

    def update_layer(self, name: str, config: TranscoderConfig) -> None:
        """Put a fresh transcoder on under a name."""
        made = Transcoder(*self._sizes, config.features, bias=config.decoder_bias, scale=config.scale)
        weight = next(self.base_layer.parameters())
        self.transcoder_parts[name] = made.to(weight.device)
        self.set_adapter([name], inference_mode=config.inference_mode)

    @property
    def transcoder(self) -> Transcoder | None:
        """The one that is on; None where none is."""
        parts: Any = self.transcoder_parts
        active: Any = self.active_adapters
        on = [] if self.disable_adapters else [name for name in active if name in parts]
        return parts[on[0]] if on else None

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        output = self.base_layer(x, *args, **kwargs)
        added = self.transcoder
        if added is None:
            return output
        return with_hidden(output, hidden_of(output) + added(x))

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Raises: NotImplementedError: its features are no neurons of the MLP, which has another activation."""
        raise NotImplementedError("a transcoder runs beside the MLP and is no part of its weights; engine hf runs it")


class TranscoderModel(BaseTuner):
    """PEFT's side of it: which modules are wrapped."""

    prefix = PREFIX
    tuner_layer_cls = TranscoderLayer
    target_module_mapping: ClassVar[dict[str, list[str]]] = {}

    def _create_and_replace(
        self, peft_config: Any, adapter_name: str, target: Any, target_name: str, parent: Any, current_key: str
    ) -> None:
        if isinstance(target, TranscoderLayer):
            target.update_layer(adapter_name, peft_config)
            return
        width = int(self.model.config.get_text_config(decoder=True).hidden_size)
        made = TranscoderLayer(target, adapter_name, peft_config, (width, width))
        self._replace_module(parent, target_name, made, target)

    def _replace_module(self, parent: Any, child_name: str, new_module: Any, child: Any) -> None:
        """PEFT's own expects a module with one weight."""
        setattr(parent, child_name, new_module)

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        """A tensor's name in the file."""
        return key.replace(f"{PREFIX}parts.{adapter_name}.", f"{PREFIX}parts.")


def register() -> None:
    """Have PEFT know the kind; a second time changes nothing."""
    PEFT_TYPE_TO_CONFIG_MAPPING[KIND] = TranscoderConfig
    PEFT_TYPE_TO_TUNER_MAPPING[KIND] = TranscoderModel
    PEFT_TYPE_TO_PREFIX_MAPPING[KIND] = PREFIX
