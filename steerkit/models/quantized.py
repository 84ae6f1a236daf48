"""Weights that are packed into fewer bits: which are read, what they are called, what they do to numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from steerkit.errors import SteerkitError

if TYPE_CHECKING:
    from torch import Tensor


def settings(config: Any) -> dict[str, Any]:
    """A configuration's `quantization_config`, its own or its text model's; empty when there is none."""
    found = getattr(config, "quantization_config", None)
    if found is None:
        found = getattr(config.get_text_config(decoder=True), "quantization_config", None)
    if found is None:
        return {}
    return dict(found) if isinstance(found, dict) else dict(found.to_dict())


def method_of(name: str, config: Any) -> str:
    """By what a checkpoint's weights are quantised; empty where they aren't.

    Raises:
        SteerkitError: transformers doesn't read it; it would skip the packed weights and draw others at random.
    """
    told = settings(config)
    if not told:
        return ""
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

    method, known = _method(told), {*AUTO_QUANTIZER_MAPPING, "bitsandbytes"}
    if method not in known:
        raise SteerkitError(
            f"{name}: its weights are quantised by {method or 'a method without a name'} (`quantization_config` in "
            f"config.json), which this version of transformers doesn't read; it knows {', '.join(sorted(known))}"
        )
    return method


@contextmanager
def reading(name: str, method: str) -> Iterator[None]:
    """Turn whatever a quantiser makes of weights that it can't read here into words; nothing where `method` is empty.

    Raises:
        SteerkitError: instead of a NameError of a package that lacks another one, and the like.
    """
    try:
        yield
    except (SteerkitError, ImportError, OSError, ValueError):
        raise
    except Exception as error:
        if not method:
            raise
        told = str(error).strip().splitlines() or [""]
        raise SteerkitError(
            f"{name}: its weights, quantised by {method}, can't be read here: {type(error).__name__}: {told[0]}"
        ) from error


def in_words(model: Any) -> str:
    """How a model's weights are quantised: `bitsandbytes, 4 bits, nf4`; empty when they aren't."""
    told = settings(model.config)
    method = _method(told)
    if not told or told.get("dequantize") or (method == "gguf" and not _holds_gguf(model)):
        return ""
    bits = told.get("bits") or told.get("weight_bits")
    bits = 8 if told.get("load_in_8bit") else 4 if told.get("load_in_4bit") else bits
    kind = told.get("bnb_4bit_quant_type") if told.get("load_in_4bit") else _kind(told.get("quant_type"))
    return ", ".join(str(part) for part in (method, told.get("format"), f"{bits} bits" if bits else None, kind) if part)


def arithmetic(model: Any) -> str:
    """All settings of a model's quantisation: the same packed numbers may be computed with in several ways."""
    told = {key: value for key, value in settings(model.config).items() if key != "gguf_file"}  # which is a path
    return json.dumps(told, sort_keys=True, default=str) if in_words(model) else ""


def mixes_rows(model: Any) -> bool:
    """Whether a row's numbers depend on the rows beside it, because activations are quantised by the whole batch's.

    bitsandbytes' LLM.int8 keeps columns apart that hold an outlier in any row; a dynamic scale of the whole tensor is
    that of its largest row.
    """
    told = settings(model.config)
    if told.get("load_in_8bit"):
        return float(told.get("llm_int8_threshold", 6.0)) > 0
    quant_type = repr(told.get("quant_type"))
    if "Float8DynamicActivation" in quant_type:
        return "PerRow" not in quant_type
    groups = told.get("config_groups") or {}
    inputs = [group.get("input_activations") or {} for group in groups.values() if isinstance(group, dict)]
    return any(given.get("dynamic") is True and given.get("strategy") == "tensor" for given in inputs)


def arithmetic_eps(model: Any) -> float:
    """Relative step of the numbers that quantised layers compute with, 0 where it is the hidden states' own.

    That of int8 or E4M3 where activations are quantised, of the compute dtype with 4-bit weights.
    """
    import torch

    told = settings(model.config)
    inputs = repr([told.get("quant_type"), told.get("config_groups")])
    if told.get("load_in_8bit") or "Int8DynamicActivation" in inputs or "'input_activations': {" in inputs:
        return 1 / 127
    if "Float8DynamicActivation" in inputs or (_method(told) in ("fp8", "fbgemm_fp8") and in_words(model)):
        return 1 / 8
    if told.get("load_in_4bit"):
        compute = getattr(torch, str(told.get("bnb_4bit_compute_dtype", "float32")).removeprefix("torch."))
        return float(torch.finfo(compute).eps)
    return 0.0


def keep_layout(model: Any) -> None:
    """Keep bitsandbytes from repacking 4-bit weights at the first forward on a CPU.

    Its way back, which reading the state takes, loses what the weights were: afterwards the model is another one.
    """
    for module in model.modules():
        if getattr(module, "support_avx512bf16_for_cpu", False):
            module.support_avx512bf16_for_cpu = False


def state_of(name: str, model: Any) -> Iterator[tuple[str, Tensor]]:
    """A model's state, packed weights taken apart into plain tensors.

    Raises:
        SteerkitError: 4-bit weights were repacked before steerkit knew the model; reading them would break it.
    """
    for module in model.modules():
        if getattr(getattr(getattr(module, "weight", None), "quant_state", None), "packing_format_for_cpu", False):
            raise SteerkitError(
                f"{name}: bitsandbytes has repacked its 4-bit weights for this CPU, and can't undo that: give steerkit "
                "the model by name, or wrap it before its first forward"
            )
    for key, value in model.state_dict().items():
        yield from _plain(key, value)


def _plain(key: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    if hasattr(value, "__tensor_flatten__") and type(value).__module__.startswith("torchao"):
        for inner in value.__tensor_flatten__()[0]:
            yield from _plain(f"{key}.{inner}", getattr(value, inner))
    else:
        yield key, value


def forget_packing(model: Any) -> None:
    """Make a model whose GGUF blocks were unpacked an ordinary one, which transformers trains and saves: it still says
    that it is quantised."""
    if _method(settings(model.config)) != "gguf" or _holds_gguf(model):
        return
    model.is_quantized, model.hf_quantizer = False, None
    for config in (model.config, model.config.get_text_config(decoder=True)):
        if hasattr(config, "quantization_config"):
            del config.quantization_config
    if hasattr(model, "quantization_method"):
        del model.quantization_method


def _holds_gguf(model: Any) -> bool:
    """Whether GGUF blocks stay packed; without kernels for them they are unpacked, and the settings stay."""
    return any(type(module).__module__.startswith("transformers.integrations.gguf") for module in model.modules())


def _method(told: dict[str, Any]) -> str:
    if told.get("load_in_8bit") or told.get("load_in_4bit"):
        return "bitsandbytes"
    method = told.get("quant_method")
    return str(getattr(method, "value", method) or "")


def _kind(quant_type: Any) -> str:
    """torchao's configuration by name, as JSON has it or as an object."""
    if isinstance(quant_type, dict):
        inner = quant_type.get("default", quant_type)
        return str(inner.get("_type", "")) if isinstance(inner, dict) else ""
    return type(quant_type).__name__ if quant_type is not None and not isinstance(quant_type, str) else quant_type or ""
