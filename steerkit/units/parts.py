"""Arrays of several kinds in one safetensors file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

Parts = tuple[dict[str, np.ndarray], dict[str, str]]
"""Arrays by name, and metadata."""


def save_parts(path: Path, *parts: Parts) -> None:
    """Write one safetensors file of all parts, whose names differ, whole or not at all."""
    import torch

    from steerkit.store.files import save_tensors

    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: torch.from_numpy(np.ascontiguousarray(own)) for each, _ in parts for name, own in each.items()}
    save_tensors(path, arrays, {key: text for _, told in parts for key, text in told.items()})
