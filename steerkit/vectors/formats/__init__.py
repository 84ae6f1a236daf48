"""Vectors in other programs' files: llama.cpp and repeng (`gguf`), lm-evaluation-harness (`lm_eval`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from steerkit.errors import SteerkitError

if TYPE_CHECKING:
    from torch import Tensor

    from steerkit.vectors.steering_vector import SteeringVector


def added(vector: SteeringVector, layers: Iterable[int] | None, strength: float) -> dict[int, Tensor]:
    """layer → [H] float32, what each block's output gets: unit direction × the vector's own scale × strength.

    Args:
        vector: the vector.
        layers: 0-based blocks; None for the only layer of a one-layer vector.
        strength: multiplier of the vector's own scale (`VectorInfo.scale`).

    Raises:
        SteerkitError: the vector lacks one of them, or has several and none was named.
    """
    if layers is None:
        if len(vector.layers) > 1:
            raise SteerkitError(
                f"name the layers (one of {', '.join(map(str, vector.layers))}, or several): all that are in the file "
                "are added at once"
            )
        layers = vector.layers
    chosen = sorted(set(layers))
    missing = [layer for layer in chosen if layer not in vector.directions]
    if missing or not chosen:
        which = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
        raise SteerkitError(
            f"the vector has no layer {which or 'of those'}; it has {', '.join(map(str, vector.layers))}"
        )
    return {layer: vector.unit(layer) * (vector.norm(layer) * strength) for layer in chosen}
