"""A causal language model with what steerkit needs to know of it: blocks, width, tokenizer, fingerprint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from steerkit.errors import SteerkitError
from steerkit.models.adapter_kinds import refuse_adapters
from steerkit.models.adapter_layout import is_wrapped

if TYPE_CHECKING:
    import torch
    from torch import nn

    from steerkit.models.protocol import Batches

# Where architectures keep their decoder blocks, below `get_decoder()`.
BLOCK_NAMES = ("layers", "h", "blocks")
FINAL_NORM_NAMES = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "norm_f", "embedding_norm", "final_norm")


@dataclass(frozen=True)
class LanguageModel:
    """A transformers (or PEFT-wrapped) causal LM and its tokenizer.

    Attributes:
        name: how the user named it; `pocket:base`, a hub id, a folder, a GGUF file, or a class name.
        model: the module on which `generate` is called.
        tokenizer: a fast tokenizer.
        adapter: whether a PEFT adapter on it makes it the reasoning model (off for the base).
        origin: folder or hub id that transformers loaded the weights from; empty when they are nowhere but here.
    """

    name: str
    model: Any
    tokenizer: Any
    adapter: bool = False
    origin: str = ""

    def __post_init__(self) -> None:
        if self.model_is_wrapped:
            refuse_adapters(self.name, self.model)

    @cached_property
    def decoder(self) -> nn.Module:
        """The stack of blocks without the LM head."""
        decoder: nn.Module = self.transformer.get_decoder()
        if not any(hasattr(decoder, name) for name in BLOCK_NAMES):  # Llama4ForCausalLM answers with itself
            inner: nn.Module | None = getattr(decoder, "model", None)
            return decoder if inner is None else inner
        return decoder

    @property
    def transformer(self) -> Any:
        """The transformers model itself, without PEFT's wrapper."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @cached_property
    def blocks(self) -> Sequence[nn.Module]:
        """The decoder blocks; block l's output is ``hidden_states[l + 1]``."""
        for name in BLOCK_NAMES:
            blocks: Sequence[nn.Module] | None = getattr(self.decoder, name, None)
            if blocks is not None:
                return blocks
        raise SteerkitError(
            f"{self.name}: {type(self.decoder).__name__} has no list of decoder blocks under any of "
            f"{', '.join(BLOCK_NAMES)}; steerkit needs a decoder-only transformers model"
        )

    @property
    def final_norm(self) -> nn.Module:
        """The norm between the last block and the LM head."""
        for name in FINAL_NORM_NAMES:
            norm: nn.Module | None = getattr(self.decoder, name, None)
            if norm is not None:
                return norm
        raise SteerkitError(f"{self.name}: {type(self.decoder).__name__} has no final norm that steerkit knows of")

    @cached_property
    def batches(self) -> Batches:
        """Whether rows are padded to one length, only rows of one length share a forward, or each has its own."""
        from steerkit.models.supported import batches

        return batches(self)

    @property
    def config(self) -> Any:
        return self.model.config.get_text_config(decoder=True)

    @property
    def depth(self) -> int:
        """Number of decoder blocks."""
        return len(self.blocks)

    @property
    def width(self) -> int:
        """Size H of the residual stream."""
        return int(self.config.hidden_size)

    @property
    def inner_width(self) -> int:
        """Width of the feed-forward parts, the widest where they differ."""
        width = getattr(self.config, "intermediate_size", None) or 4 * self.width
        return int(max(width) if isinstance(width, list | tuple) else width)

    @property
    def device(self) -> torch.device:
        """Where token ids go: the device of the first weight that is not offloaded."""
        import torch

        devices = (p.device for p in self.model.parameters())
        return next((d for d in devices if d.type != "meta"), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the hidden states: that of the weights which are not packed into fewer bits."""
        import torch

        whole = (p.dtype for p in self.model.parameters() if p.is_floating_point() and p.itemsize > 1)
        return next(whole, torch.float32)

    @property
    def quantized(self) -> str:
        """How the weights are packed into fewer bits, in words; empty when they aren't."""
        from steerkit.models.quantized import in_words

        return in_words(self.model)

    @property
    def setup(self) -> dict[str, str]:
        """Device, number format, quantisation and attention that the model runs with, and how rows share a batch."""
        from steerkit.models.setup import setup_of

        return setup_of(self)

    def check_layer(self, layer: int, where: str = "layer") -> None:
        """Raises: SteerkitError when `layer` is not a 0-based block of this model."""
        check_layer(layer, self.name, self.depth, where)

    @property
    def fingerprint(self) -> str:
        """16 hex digits over all that changes the model, as it is now (see `steerkit.models.fingerprint`)."""
        from steerkit.models.fingerprint import fingerprint

        return fingerprint(self)

    @property
    def model_is_wrapped(self) -> bool:
        return is_wrapped(self.model)


def check_stream(hidden: torch.Tensor, name: str) -> None:
    """Raises: SteerkitError when a block's output isn't [B, T, H]."""
    if hidden.dim() != 3:
        raise SteerkitError(
            f"{name}: its blocks hand on several streams, {list(hidden.shape)}, and not one of [rows, tokens, width]: "
            "steerkit reads and steers models with one residual stream"
        )


def check_layer(layer: int, name: str, depth: int, where: str = "layer") -> None:
    """Raises: SteerkitError when `layer` is not a 0-based block of a model of this depth."""
    if not 0 <= layer < depth:
        raise SteerkitError(f"{where}: {layer} is not a block of {name}: it has {depth}, numbered 0 to {depth - 1}")
