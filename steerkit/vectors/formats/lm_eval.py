"""The file that lm-evaluation-harness's ``--model steered`` reads.

The harness takes a CSV that names features of sparse autoencoders, or a ``.pt`` file with directions. The second is
the one that can hold a fitted direction, so this is the only file of steerkit's that `torch.save` writes. It holds
text, numbers and plain tensors alone: ``torch.load(file, weights_only=True)`` reads it, and runs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from steerkit.errors import SteerkitError
from steerkit.store.files import atomic
from steerkit.vectors.formats import added

if TYPE_CHECKING:
    from steerkit.vectors.steering_vector import SteeringVector

SUFFIXES = (".pt", ".pth")


def export_lm_eval(
    vector: SteeringVector,
    path: Path | str,
    *,
    layers: Iterable[int] | None = None,
    strength: float = 1.0,
    hookpoint: str = "layers.{layer}",
) -> None:
    """Write a steering file: ``lm_eval --model steered --model_args pretrained=MODEL,steer_path=FILE.pt``.

    The harness adds coefficient × vector to the output of the modules named, at every token (``tokens="all"``).

    Args:
        vector: the vector.
        path: the file; the harness wants it to end in .pt or .pth.
        layers: 0-based blocks to steer, all at once; may be left out for a one-layer vector.
        strength: multiplier of the vector's own scale; the harness's ``steering_coefficient``.
        hookpoint: name of a block's module below the model's ``base_model``, with {layer} in place of its number:
            ``layers.{layer}`` (Llama, Qwen, GPT-NeoX), ``h.{layer}`` (GPT-2).

    Raises:
        SteerkitError: another suffix, a hookpoint without {layer}, no layers named, or one that the vector lacks.
    """
    import torch

    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise SteerkitError(f"{path}: lm-evaluation-harness reads files that end in {' or '.join(SUFFIXES)}")
    if "{layer}" not in hookpoint:
        raise SteerkitError(f"hookpoint {hookpoint!r}: has no {{layer}} in it; layers.{{layer}} names Llama's blocks")
    steered = {
        hookpoint.replace("{layer}", str(layer)): {
            "action": "add",
            "steering_vector": value,
            "steering_coefficient": float(strength),
            "bias": None,
            "head_index": None,
        }
        for layer, value in added(vector, layers, 1.0).items()
    }
    with atomic(path) as temporary:
        torch.save(steered, temporary)
