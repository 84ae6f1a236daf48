"""Which models steerkit handles, and how their rows may share a forward; the others are refused with the reason."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from inspect import signature
from typing import Any

from steerkit.errors import SteerkitError
from steerkit.models.protocol import Batches, Opened
from steerkit.models.quantized import mixes_rows

ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}
CACHE_ARGUMENTS = ("past_key_values", "cache_params")


def refuse_config(name: str, config: Any) -> None:
    """Raises: SteerkitError when a configuration is an encoder-decoder's (as a causal LM, half of it is lost)."""
    if getattr(config, "is_encoder_decoder", False):
        kind = (getattr(config, "architectures", None) or [type(config).__name__])[0]
        raise SteerkitError(
            f"{name}: {kind} is an encoder-decoder; steerkit steers decoder-only models, whose prompt and text "
            "are one sequence"
        )


def refuse(lm: Opened) -> None:
    """Raises: SteerkitError when steerkit can't generate with the model: it is an encoder-decoder, has no known
    blocks, or keeps its past in another way than transformers' caches."""
    model = lm.transformer
    refuse_config(lm.name, model.config)
    _ = lm.blocks  # says itself under which names it looked
    if not cache_argument(lm):
        raise SteerkitError(
            f"{lm.name}: {type(model).__name__} takes no cache, which steerkit's decode loop needs; its activations "
            "can be read, and its own `generate` can be steered (`with steer(...)`)"
        )
    if lm.batches != "padded" and not _selectable(model, _cache_layers(lm)):
        raise SteerkitError(
            f"{lm.name}: {type(model).__name__} keeps a past of its own kind, not one of transformers' caches; "
            "steerkit can't copy and drop rows in it, so it can't generate with this model"
        )


def batches(lm: Opened) -> Batches:
    """How rows share a forward: padded where a row's past is keys and values of its tokens and nothing else."""
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    if mixes_rows(lm.transformer):
        return "alone"
    layers = _cache_layers(lm)
    while layers and type(layers[-1]).__name__ == "DummyLayer":  # the last blocks may read earlier ones' keys
        layers.pop()
    plain = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)
    return "padded" if layers and plain and not _recurrent(lm.transformer) else "equal lengths"


def _recurrent(model: Any) -> bool:
    """Whether a model says that it keeps more than keys and values, also where transformers' cache doesn't know it."""
    kinds = {str(kind) for kind in getattr(model.config.get_text_config(decoder=True), "layer_types", None) or ()}
    return bool(getattr(model, "_is_stateful", False)) or not kinds <= ATTENTION


def _selectable(model: Any, layers: list[Any]) -> bool:
    """Whether the whole past lies in transformers' own kinds of layers, whose rows can be copied and dropped."""
    from transformers import cache_utils

    ours = all(type(layer).__module__ == cache_utils.__name__ for layer in layers)
    plain = all(type(layer).__name__ in ("DynamicLayer", "DynamicSlidingWindowLayer", "DummyLayer") for layer in layers)
    elsewhere = plain and _recurrent(model)  # RWKV, xLSTM
    in_modules = hasattr(model, "_setup_cache")  # RecurrentGemma
    return ours and not elsewhere and not in_modules


def attention_layers(lm: Opened) -> int:
    """How many of the model's blocks keep keys and values."""
    from transformers.cache_utils import CacheLayerMixin

    return sum(isinstance(layer, CacheLayerMixin) for layer in _cache_layers(lm))


def cache_argument(lm: Opened) -> str:
    """Under which name the model's forward takes its cache; empty when it takes none."""
    forward: Callable[..., Any] = type(lm.transformer).forward
    return _cache_argument(forward)


@cache
def _cache_argument(forward: Callable[..., Any]) -> str:
    names = signature(forward).parameters
    return next((name for name in CACHE_ARGUMENTS if name in names), "")


def _cache_layers(lm: Opened) -> list[Any]:
    """What the model keeps of a row's past, layer by layer; empty where transformers' caches don't know it."""
    from transformers import DynamicCache

    try:
        return list(DynamicCache(config=lm.config).layers)
    except (KeyError, AttributeError, TypeError, ValueError):
        return []
