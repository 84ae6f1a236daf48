"""A model's fingerprint: everything that changes what it computes, as 16 hex digits.

Weights may change between two questions (training, an edit in place), so nothing of it is kept: it is computed anew
each time, at the speed of one pass over the weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from steerkit.models.adapter_layout import Layout, adapter_state
from steerkit.models.devices import for_sums
from steerkit.models.protocol import Opened
from steerkit.models.quantized import arithmetic, state_of

if TYPE_CHECKING:
    from torch import Tensor


SUMMED = 2**17  # tensors of more numbers go in by sums over their bits: several times as fast
LINE = 4096  # 64-bit words of a row of such sums
ABSENT = object()

# Settings that leave the forward alone, or that the tensors' shapes show.
ELSEWHERE = frozenset(
    {
        "architectures",
        "bos_token_id",
        "dtype",
        "eos_token_id",
        "head_dim",
        "hidden_size",
        "id2label",
        "initializer_range",
        "intermediate_size",
        "label2id",
        "max_position_embeddings",
        "model_type",
        "name_or_path",
        "num_attention_heads",
        "num_hidden_layers",
        "num_key_value_heads",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "quantization_config",
        "return_dict",
        "tie_word_embeddings",
        "torch_dtype",
        "transformers_version",
        "use_cache",
        "vocab_size",
    }
)
ADAPTERS_ELSEWHERE = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "exclude_modules",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "modules_to_save",
        "peft_version",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
    }
)


def fingerprint(lm: Opened) -> str:
    """16 hex digits over a model as it is now.

    In it are names, shapes, dtypes and all values of weights and buffers (offloaded ones too), and the settings that
    differ from their architecture's defaults (rotary scaling, soft caps, experts a token). With a PEFT adapter on,
    also the adapter's tensors and settings; with it off, it is the plain base model's.
    """
    state = hashlib.sha256()
    layout = None
    with adapter_state(lm):
        if lm.model_is_wrapped:
            layout = Layout(lm.model)
        for name, value in _tensors(lm.name, lm.model):
            plain = layout.plain(name) if layout else name.replace("_orig_mod.", "")
            if plain is None and not lm.adapter:
                continue
            state.update(f"{name if plain is None else plain} {tuple(value.shape)} {value.dtype}".encode())
            state.update(_content(value))
        settings = forward_settings(lm.config)
        if layout and lm.adapter:
            settings["adapter"] = _adapter_settings(lm.model)
        if packed := arithmetic(lm.model):
            settings["quantization"] = packed
        if (lm.adapter or not layout) and (layers := _adapter_layers(lm.model)):
            settings["layers"] = layers
    if settings:
        state.update(json.dumps(settings, sort_keys=True, default=str).encode())
    return state.hexdigest()[:16]


def _tensors(label: str, model: Any) -> Iterator[tuple[str, Tensor]]:
    """All of a model's state, packed weights taken apart, offloaded tensors fetched one by one."""
    from accelerate.utils.modeling import align_module_device

    for name, value in state_of(label, model):
        if value.device.type != "meta":
            yield name, value
            continue
        path, _, own = name.rpartition(".")
        module = model.get_submodule(path)
        with align_module_device(module):
            yield name, getattr(module, own)


def _content(value: Tensor) -> Any:
    """A tensor's bytes; of a large one the sums of its 64-bit words along rows and columns of `LINE` words.

    A single number that differs changes a sum of each kind, and so do two that are exchanged. Sums wrap around, hence
    are the same in any order and on any device.
    """
    import torch

    if value.device.type == "meta":
        return b""
    flat = value.detach().reshape(-1)
    if flat.numel() <= SUMMED:
        return flat.cpu().view(torch.uint8).numpy()
    raw = for_sums(flat).view(torch.uint8)
    whole = len(raw) // (8 * LINE) * 8 * LINE
    words = raw[:whole].view(torch.int64).view(-1, LINE)
    sums = torch.cat([words.sum(1), words.sum(0)])
    return torch.cat([sums.view(torch.uint8), raw[whole:]]).cpu().numpy()


def forward_settings(config: Any) -> dict[str, Any]:
    """The configuration's values that differ from the architecture's defaults, sizes and bookkeeping left out."""
    kind: Any = type(config)
    default = _defaults(kind)
    return {
        key: value
        for key, value in vars(config).items()
        if key not in ELSEWHERE and "dropout" not in key and key[0] != "_" and value != default.get(key, ABSENT)
    }


@cache
def _defaults(kind: Any) -> dict[str, Any]:
    """What a configuration of this class holds when nothing is given; empty where it can't be made so."""
    try:
        return dict(vars(kind()))
    except Exception:  # a class of the model's own may raise anything
        return {}


def _adapter_settings(model: Any) -> dict[str, Any]:
    """What the active adapters' configurations say."""
    found: dict[str, Any] = {}
    for name in model.active_adapters:
        config = model.peft_config[name].to_dict()
        found[name] = {key: _sorted(value) for key, value in config.items() if key not in ADAPTERS_ELSEWHERE}
    return found


def _adapter_layers(model: Any) -> dict[str, Any]:
    """Which adapters each wrapped module applies now, and how scaled; also where transformers put them on."""
    found = {}
    for path, module in model.named_modules():
        if hasattr(module, "base_layer") and hasattr(module, "active_adapters"):
            on = [] if module.disable_adapters else list(module.active_adapters)
            scaling = getattr(module, "scaling", None)
            found[path] = {name: str(scaling.get(name)) if isinstance(scaling, dict) else "" for name in on}
    return found


def _sorted(value: Any) -> Any:
    return sorted(value, key=str) if isinstance(value, set) else value
