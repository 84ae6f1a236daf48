"""Text models out of multimodal checkpoints: what reads images and sound is left out before weights are loaded.

A multimodal class is a decoder with a language-modelling head, and towers whose output stands in for the embeddings
of placeholder tokens. Text alone never reaches them. transformers' own class reads the checkpoint, so that its
conversions of names, ties and quantised layers hold; its decoder and head then go into the text-only class.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

KEPT = (
    "hf_quantizer",
    "is_quantized",
    "quantization_method",
    "is_loaded_in_8bit",
    "is_loaded_in_4bit",
    "hf_device_map",
)


def without_towers(config: Any) -> Any:
    """The multimodal class that a configuration belongs to, made without its towers; None for a text model's."""
    import transformers

    if config.get_text_config(decoder=True) is config:
        return None
    for name in ("AutoModelForMultimodalLM", "AutoModelForImageTextToText", "AutoModelForCausalLM"):
        known = getattr(getattr(transformers, name, None), "_model_mapping", {})  # the first is younger than 5.0
        if type(config) in known:
            return _pruned(known[type(config)])
    return None


def text_model(model: Any) -> Any:
    """The text-only class over a multimodal model's decoder and head, nothing copied.

    The model itself where transformers has no such class, or it is one.
    """
    from accelerate import init_empty_weights
    from accelerate.hooks import add_hook_to_module
    from transformers import AutoModelForCausalLM

    config = model.config.get_text_config(decoder=True)
    known: Any = AutoModelForCausalLM._model_mapping
    if config is model.config or type(config) not in known:
        return model
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    kind: Any = known[type(config)]
    if isinstance(decoder, kind):
        text = decoder
    else:
        with init_empty_weights():
            text = kind(decoder.config)
        place = next((name for name, child in text.named_children() if type(child) is type(decoder)), None)
        if place is None or head is None:
            return model
        setattr(text, place, decoder)
        text.set_output_embeddings(head)
        text.config.tie_word_embeddings = head.weight is decoder.get_input_embeddings().weight
    text.generation_config, text.name_or_path = model.generation_config, model.name_or_path
    for name in KEPT:
        if name in vars(model):
            setattr(text, name, getattr(model, name))
    if getattr(model.config, "quantization_config", None) is not None:
        text.config.quantization_config = model.config.quantization_config
    if hasattr(model, "_hf_hook"):  # accelerate's, which brings the logits to the device of the ids
        add_hook_to_module(text, model._hf_hook)
    return text.train(model.training)


@cache
def _pruned(kind: Any) -> Any:
    """A multimodal class whose models have no towers; it keeps its name, by which transformers finds conversions."""

    def init(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        kind.__init__(self, config, *args, **kwargs)
        self.left_out = _prune(self)
        # Tensors of a checkpoint that no module waits for
        ignored: Any = self._keys_to_ignore_on_load_unexpected
        ignored = [] if ignored is None else ignored
        names = {name.rpartition(".")[2] for name in self.left_out}
        patterns = [rf"(^|\.){re.escape(name)}\." for name in sorted(names)]
        self._keys_to_ignore_on_load_unexpected = type(ignored)([*ignored, *patterns])  # a list or a set, by version

    return type(kind.__name__, (kind,), {"__init__": init, "__module__": kind.__module__})


def _prune(model: Any) -> tuple[str, ...]:
    """Take out the modules beside the decoder and the head that have weights; their names."""
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    kept = {id(decoder), id(head)}
    left_out = []
    for above, module in list(model.named_modules()):
        inner = {id(part) for part in module.modules()} - {id(module)}
        if id(decoder) not in inner:
            continue  # not above the decoder
        for name, child in list(module.named_children()):
            own = {id(part) for part in child.modules()}
            if not own & kept and next(child.parameters(), None) is not None:
                setattr(module, name, _absent(name))
                left_out.append(f"{above}.{name}".lstrip("."))
    return tuple(left_out)


def _absent(name: str) -> Any:
    from torch import nn

    class Absent(nn.Module):
        """Stands where a tower was."""

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            raise RuntimeError(f"{name} was left out: steerkit loads text models, and no images or sound reach them")

    return Absent()
