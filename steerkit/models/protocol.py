"""What the parts of this room ask of a model: `LanguageModel` has it, and they needn't know that class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import torch
    from torch import nn

Batches = Literal["padded", "equal lengths", "alone"]
"""Rows of a batch are padded to one length, only rows of one length share a batch, or each row is run alone.

A recurrent state has taken in every column that it was shown, padding too, and can't be cut or moved in a cache as
keys and values can. Some quantised layers mix the rows of a batch.
"""


class Opened(Protocol):
    """An opened model; see `steerkit.models.language_model.LanguageModel` for what each attribute is."""

    @property
    def name(self) -> str: ...
    @property
    def model(self) -> Any: ...
    @property
    def adapter(self) -> bool: ...
    @property
    def model_is_wrapped(self) -> bool: ...
    @property
    def transformer(self) -> Any: ...
    @property
    def blocks(self) -> Sequence[nn.Module]: ...
    @property
    def config(self) -> Any: ...
    @property
    def batches(self) -> Batches: ...
    @property
    def quantized(self) -> str: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...
