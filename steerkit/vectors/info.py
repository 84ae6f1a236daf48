"""What a steering vector is and where it came from, as its file and its model card say it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from pydantic import TypeAdapter

from steerkit.store.strict_json import loads

Scale = Literal["unit", "raw", "mean-norm", "residual-norm"]


@dataclass(frozen=True, kw_only=True)
class VectorInfo:
    """What a vector is and where it came from.

    Attributes:
        method: the fitter's name and its options.
        label: label of the positive spans.
        window: token offsets from a span's first token, inclusive; None where an imported vector doesn't say.
        scale: what strength 1 adds (see `FitterConfig.scale`).
        source: `base` or `reasoning`: the model whose activations it is made of.
        model: that model's name, and its weights' fingerprint.
        depth: number of blocks of that model.
        positives: traces and spans in the positive mean.
        data: fingerprint of the traces and spans.
        provenance: recipe hash, plugin versions, seed and whatever else the maker recorded.
    """

    method: str
    label: str
    window: tuple[int, int] | None
    scale: Scale = "unit"
    source: str = ""
    model: str = ""
    fingerprint: str = ""
    depth: int = 0
    positives: dict[str, int] = field(default_factory=dict)
    data: str = ""
    hook_point: str = "block output (hidden_states[layer + 1])"
    provenance: dict[str, Any] = field(default_factory=dict)


def info_from_json(text: str) -> VectorInfo:
    """What a file says of its vector. Raises: ValueError when that isn't all, or is of other types."""
    unknown = sorted(set(loads(text)) - {f.name for f in fields(VectorInfo)})
    if unknown:
        raise ValueError(f"unknown field {unknown[0]!r}")
    return TypeAdapter(VectorInfo).validate_json(text, strict=True)
