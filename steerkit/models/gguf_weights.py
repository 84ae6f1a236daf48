"""What transformers leaves out of a GGUF model without a word: tensors that it has no name for, and rotary factors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steerkit.errors import SteerkitError
from steerkit.models.load_errors import explained

FACTORS = "rope_freqs.weight"
BESIDE = (FACTORS, "rope_factors_long.weight", "rope_factors_short.weight")  # no weights: the configuration's part


def check_gguf(name: str, file: Path, model: Any) -> None:
    """Hold the numbers in a file against those in the model that was made of it.

    Raises:
        SteerkitError: the file has more; tensors that the model has no place for are named.
    """
    if getattr(getattr(model, "hf_quantizer", None), "supported", False):
        return  # transformers' newer reader, which reports what it doesn't know
    with explained(name):
        stored = {tensor.name: int(tensor.n_elements) for tensor in _tensors(file) if tensor.name not in BESIDE}
    own = model.state_dict().keys()
    held = [*model.parameters(), *(value for key, value in model.named_buffers() if key in own)]  # tied ones once
    more = sum(stored.values()) - sum(value.numel() for value in held)
    if more > 0:
        known = _known(model)
        names = [each for each in stored if each not in known]
        shown = ": " + ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") if names else ""
        raise SteerkitError(
            f"{name}: transformers left out {more:,} numbers of the file when it made a {type(model).__name__} of it"
            f"{shown}\n  The model would compute something else; load the original weights, as safetensors"
        )


def with_rotary_factors(config: Any, file: Path) -> Any:
    """The configuration with the divisors of the rotary frequencies that a file holds (Llama 3.1 and later).

    llama.cpp keeps what HF calls rope type `llama3` as one factor a frequency, and transformers drops it. The type
    `longrope` is just that: inv_freq / factor, here the same for short and long texts, and no scaled attention.
    """
    import numpy as np

    own = getattr(config, "rope_parameters", None) or {}
    found = [tensor for tensor in _tensors(file) if tensor.name == FACTORS]
    if not found or own.get("rope_type") != "default":
        return config
    factors = np.asarray(found[0].data, dtype=np.float64).tolist()
    if any(factor != 1 for factor in factors):
        config.rope_parameters = {
            **own,
            "rope_type": "longrope",
            "short_factor": factors,
            "long_factor": factors,
            "attention_factor": 1.0,
            "original_max_position_embeddings": config.max_position_embeddings,
        }
    return config


def _tensors(file: Path) -> Any:
    from gguf import GGUFReader

    return GGUFReader(file).tensors


def _known(model: Any) -> set[str]:
    """llama.cpp's names of the model's tensors, as far as its library knows them."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    config = model.config.get_text_config(decoder=True)
    kind = str(config.model_type).removesuffix("_text").replace("_", "")
    arch = next((arch for arch, name in MODEL_ARCH_NAMES.items() if name.replace("-", "") == kind), None)
    if arch is None:
        return set()
    table = get_tensor_name_map(arch, config.num_hidden_layers)
    found = (table.get_name(key, try_suffixes=(".weight", ".bias")) for key in model.state_dict())
    return {name for name in found if name}
