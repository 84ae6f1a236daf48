"""What a decoder block puts out: hidden states, alone or first in a tuple, a list or a mapping."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import TYPE_CHECKING, Any

from steerkit.errors import SteerkitError

if TYPE_CHECKING:
    from torch import Tensor


def hidden_of(output: Any) -> Tensor:
    """[B, T, H] of a block's output.

    Raises:
        SteerkitError: there is no tensor where hidden states are expected.
    """
    import torch

    first = output
    if isinstance(output, tuple | list) and output:
        first = output[0]
    elif isinstance(output, Mapping) and output:
        first = next(iter(output.values()))
    if not isinstance(first, torch.Tensor):
        raise SteerkitError(f"a decoder block put out a {type(output).__name__} and no hidden states")
    return first


def with_hidden(output: Any, hidden: Tensor) -> Any:
    """A block's output with other hidden states; the caller's is not changed."""
    if isinstance(output, Mapping):
        changed: Any = copy(output)
        changed[next(iter(output))] = hidden
        return changed
    if isinstance(output, tuple | list):
        parts = [hidden, *output[1:]]
        make: Any = type(output)
        return make(*parts) if hasattr(output, "_fields") else make(parts)  # a named tuple takes them one by one
    return hidden
