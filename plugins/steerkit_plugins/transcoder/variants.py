"""Variants of a saved adapter: some features off or scaled, decoder biases kept or not."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from steerkit.models.adapters import CONFIG, WEIGHTS
from steerkit.store.files import atomic, write_json


def write_variant(
    source: Path,
    folder: Path,
    *,
    off: Mapping[int, Sequence[int]] | None = None,
    only: Mapping[int, Sequence[int]] | None = None,
    biases: bool = True,
    scale: float | None = None,
) -> None:
    """Write an adapter that is another one with features taken out: their encoder and decoder rows are 0.

    All features off and the biases kept is not the adapter off: decoder biases are added at every token.

    Args:
        source: folder of a saved adapter.
        folder: where the variant goes, in place of what is there.
        off: block → features that are taken out.
        only: block → features that are kept; all others are taken out, in blocks that aren't named too.
        biases: whether decoder biases stay.
        scale: what the transcoders' output is multiplied by in place of the adapter's own; −0.5 on the target takes
            away half of what the features add.
    """
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(source / WEIGHTS)
    for name, value in tensors.items():
        layer, kind = layer_of(name), name.rpartition("transcoder_parts.")[2]
        if kind == "decoder.bias":
            value *= float(biases)
            continue
        gone = torch.zeros(value.shape[kind == "decoder.weight"], dtype=torch.bool)
        if off is not None:
            gone[list(off.get(layer, ()))] = True
        if only is not None:
            gone[:] = True
            gone[list(only.get(layer, ()))] = False
        if kind == "decoder.weight":
            value[:, gone] = 0
        else:
            value[gone] = 0
    told = json.loads((source / CONFIG).read_text(encoding="utf-8"))
    if scale is not None:
        told["scale"] = scale
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary)
    write_json(folder / CONFIG, told)


def layer_of(name: str) -> int:
    """The 0-based block of a saved tensor: the first number in its name."""
    return next(int(part) for part in name.split(".") if part.isdecimal())
