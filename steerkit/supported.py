"""Which models steerkit handles; the others are refused by name, with the reason."""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any

from steerkit.errors import SteerkitError

if TYPE_CHECKING:
    from steerkit.model import LanguageModel

ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}


def refuse_config(name: str, config: Any) -> None:
    """Raises: SteerkitError when a configuration is an encoder-decoder's (as a causal LM, half of it is lost)."""
    if getattr(config, "is_encoder_decoder", False):
        kind = (getattr(config, "architectures", None) or [type(config).__name__])[0]
        raise SteerkitError(
            f"{name}: {kind} is an encoder-decoder; steerkit steers decoder-only models, whose prompt and text "
            "are one sequence"
        )


def refuse(lm: LanguageModel) -> None:
    """Raises: SteerkitError when the model is an encoder-decoder, keeps recurrent states, or has no known blocks."""
    model: Any = lm.model.get_base_model() if lm.model_is_wrapped else lm.model
    refuse_config(lm.name, model.config)
    other = sorted({str(each) for each in getattr(lm.config, "layer_types", None) or ()} - ATTENTION)
    if other or getattr(model, "_is_stateful", False):
        which = f" ({', '.join(other)})" if other else ""
        raise SteerkitError(
            f"{lm.name}: {type(model).__name__} has recurrent layers{which}; their states can't be padded or taken "
            "apart row by row, so a batch would mix its rows: steerkit steers models whose blocks all are attention"
        )
    if not _keeps_keys_and_values(lm):
        raise SteerkitError(f"{lm.name}: {type(model).__name__} caches more than the keys and values of tokens")
    if "past_key_values" not in signature(lm.decoder.forward).parameters:
        raise SteerkitError(
            f"{lm.name}: {type(model).__name__} keeps no keys and values between forwards (`past_key_values`), which "
            "steerkit's decode loop needs; its activations can be read, its own generate steered (`with steerer(...)`)"
        )
    _ = lm.blocks  # says itself under which names it looked


def _keeps_keys_and_values(lm: LanguageModel) -> bool:
    """Whether a row's past is keys and values of its tokens and nothing else, so that it can be moved about."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    layers = DynamicCache(config=lm.config).layers
    return bool(layers) and all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)
