"""Models, tokenizers and sizes of models by name: a source's, a folder, a GGUF file or a hub id."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerkit import registry
from steerkit.errors import SteerkitError, nearest
from steerkit.models import quantized
from steerkit.models.adapter_layout import is_wrapped
from steerkit.models.devices import choose_device
from steerkit.models.language_model import LanguageModel
from steerkit.models.load_errors import check_files, explained, refuse_adapter_as_model

log = logging.getLogger("steerkit")


def load_model(
    name: str,
    *,
    adapter: str | None = None,
    bf16: bool = False,
    device: str = "auto",
    device_map: str | None = None,
    trust_remote_code: bool = False,
    attn_implementation: str | None = None,
    torch_compile: bool = False,
) -> LanguageModel:
    """Load a model and its tokenizer, in eval mode.

    Args:
        name: `source:model` of a model plugin (`pocket:base`), a folder, a GGUF file, or a hub id.
        adapter: folder or hub id of a PEFT adapter to put on it; the weights are loaded once.
        bf16: bfloat16 weights instead of float32; quantised ones have the number format that they were saved for.
        device: where the model is put (`cpu`, `cuda`, `cuda:1`, `mps`, `xpu`); `auto` is what accelerate finds.
        device_map: accelerate's placement over several devices (`auto`, `balanced`, …), in place of `device`.
        attn_implementation: transformers' attention, its own choice when left out.
        torch_compile: compile the blocks' feed-forward parts.

    Raises:
        SteerkitError: nothing is there under that name, it can't be fetched offline, it is an encoder-decoder, there
            is no such device, the weights are not whole, or the adapter is of a kind that steerkit can't use or changes
            nothing.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from steerkit.models.adapters import with_adapter
    from steerkit.models.gguf_weights import check_gguf, with_rotary_factors
    from steerkit.models.loaded_weights import check_in_memory, check_loaded, loading_report
    from steerkit.models.supported import refuse_config
    from steerkit.models.towers import text_model, without_towers

    place = _place(device, device_map)
    path, options = _locate(name)
    refuse_adapter_as_model(name, path)
    tokenizer = load_tokenizer(name, trust_remote_code=trust_remote_code)
    options["trust_remote_code"] = trust_remote_code
    gguf, packed = options.get("gguf_file"), ""
    loader: Any = AutoModelForCausalLM
    with explained(name):
        config = AutoConfig.from_pretrained(path, **options)
        if gguf:
            options["config"] = with_rotary_factors(config, Path(path, gguf))
    if not gguf:
        refuse_config(name, config)  # llama.cpp's files hold decoder-only models
        check_files(name, path)
        packed = quantized.method_of(name, config)
        loader = without_towers(config) or loader
        options["use_safetensors"] = True  # the other format is pickle
    # Packed weights may fit no other format than the one they were saved for, and their reader would take any GPU.
    options["dtype"] = torch.bfloat16 if bf16 else "auto" if packed else torch.float32
    options["device_map"] = None if place == {"": "cpu"} and not packed else place
    if attn_implementation:
        options["attn_implementation"] = attn_implementation
    with explained(name, path), quantized.reading(name, packed), _quiet_when_small(path), loading_report(name):
        loaded: Any = loader.from_pretrained(
            path,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are named in the report: `check_loaded` refuses them
            **options,
        )
        model, info = loaded
    check_loaded(name, model, info)
    if gguf:
        check_gguf(name, Path(path, gguf), model)
        quantized.forget_packing(model)
    if left_out := getattr(model, "left_out", ()):
        log.info("%s: loaded as a text model, without %s", name, ", ".join(left_out))
    model = text_model(model)
    quantized.keep_layout(model)
    if packed and not quantized.in_words(model):
        log.warning("%s: its weights are stored as %s and were unpacked to %s", name, packed, model.dtype)
    check_in_memory(name, model)
    lm = LanguageModel(name, model.eval(), tokenizer, origin="" if gguf else path)
    if adapter:
        lm = with_adapter(lm, adapter)
    if torch_compile:
        _compile(lm)
    return lm


def _place(device: str, device_map: str | None) -> Any:
    """accelerate's map of the model: as given, or all of it on one device.

    Raises:
        SteerkitError: both are given, or there is no such device.
    """
    if device_map is not None and device != "auto":
        raise SteerkitError(f"device: {device} and device_map: {device_map}: give one of them")
    return device_map if device_map is not None else {"": str(choose_device(device))}


def _compile(lm: LanguageModel) -> None:
    """Compile what has no state: hooks sit on the blocks, and the cache's columns change at every step."""
    if not all(hasattr(block, "mlp") for block in lm.blocks):
        raise SteerkitError(f"{lm.name}: torch_compile needs blocks with an `mlp`; leave it out for this model")
    for block in lm.blocks:
        part: Any = block.mlp
        part.compile(dynamic=True)  # a copy of the module is not compiled, and has weights of its own


def load_tokenizer(name: str, *, trust_remote_code: bool = False) -> Any:
    """A model's tokenizer without its weights.

    Raises:
        SteerkitError: nothing is there under that name, or the tokenizer is not a fast one.
    """
    from transformers import AutoTokenizer

    path, options = _locate(name)
    with explained(name):
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code, **options)
    if not tokenizer.is_fast:
        raise SteerkitError(f"{name}: its tokenizer is not a fast one; convert it with transformers first")
    return tokenizer


def load_generation_config(name: str) -> Any:
    """A model's generation_config without its weights; None when it has none.

    Raises:
        SteerkitError: nothing is there under that name.
    """
    from transformers import GenerationConfig

    path, options = _locate(name)
    if options:  # a GGUF file
        return None
    try:
        return GenerationConfig.from_pretrained(path)
    except OSError:  # no such file, or no network: what loads the model tells them apart
        return None


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a model, read from its configuration alone.

    Attributes:
        kv_width: numbers in a token's keys (and as many in its values), the mean over the blocks.
        body: the blocks' part of the parameters.
    """

    name: str
    depth: int
    width: int
    kv_width: int
    parameters: int
    body: int
    vocabulary: int


def load_shape(name: str, *, trust_remote_code: bool = False) -> ModelShape:
    """A model's sizes without its weights.

    Raises:
        SteerkitError: nothing is there under that name.
    """
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    from steerkit.models.towers import text_model, without_towers

    path, options = _locate(name)
    with explained(name):
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code, **options)
        pruned = without_towers(config)
        with init_empty_weights():
            if pruned:
                model = text_model(pruned._from_config(config))
            else:
                model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    lm = LanguageModel(name, model, None)
    body = sum(p.numel() for block in lm.blocks for p in block.parameters())
    return ModelShape(name, lm.depth, lm.width, _kv_width(lm), model.num_parameters(), body, int(lm.config.vocab_size))


def _kv_width(lm: LanguageModel) -> int:
    from steerkit.models.supported import attention_layers

    heads = getattr(lm.config, "num_attention_heads", None) or 1
    head = getattr(lm.config, "head_dim", None) or lm.width // heads
    kv_heads = getattr(lm.config, "num_key_value_heads", None) or heads
    return round(head * kv_heads * attention_layers(lm) / lm.depth)


def on_this_disk(name: str) -> bool:
    """Whether a model is named by a path, or by a source whose models are files here.

    Raises:
        SteerkitError: nothing is there under that name.
    """
    return Path(_locate(name)[0]).exists()


def wrap_model(model: Any, tokenizer: Any = None, *, name: str = "") -> LanguageModel:
    """A LanguageModel of a model already in memory (of a multimodal one, its text model); a name is loaded.

    Raises:
        SteerkitError: no tokenizer, weights without values, or an adapter that can't be used or changes nothing.
    """
    from steerkit.models.adapter_effect import check_effect
    from steerkit.models.loaded_weights import check_in_memory
    from steerkit.models.towers import text_model

    if isinstance(model, LanguageModel):
        return model
    if isinstance(model, str | Path):
        return load_model(str(model))
    if tokenizer is None:
        raise SteerkitError("a model object needs its tokenizer: LanguageModel(name, model, tokenizer)")
    quantized.keep_layout(model)
    label = name or getattr(model.config, "name_or_path", "") or type(model).__name__
    check_in_memory(label, model)
    lm = LanguageModel(label, text_model(model.eval()), tokenizer, is_wrapped(model))
    if lm.model_is_wrapped:
        check_effect(lm)
    return lm


def _locate(name: str) -> tuple[str, dict[str, Any]]:
    prefix, colon, rest = name.partition(":")
    known = registry.entries("models")
    if colon and prefix in known:
        return str(registry.get("models", prefix)().path(rest)), {}
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise SteerkitError(f"{name}: no such GGUF file")
        return str(path.parent), {"gguf_file": path.name}
    if path.is_dir():
        if not (path / "config.json").is_file():
            refuse_adapter_as_model(name, str(path))
            raise SteerkitError(f"{name}: the folder has no config.json, so it is no transformers model")
        return str(path), {}
    if colon and not path.exists() and "/" not in prefix:
        raise SteerkitError(f"{name}: no model source is called {prefix!r}; {nearest(prefix, list(known))}")
    if path.exists() or name.startswith((".", "/", "~")):
        raise SteerkitError(
            f"{name}: no model folder there; give a folder with a config.json, a .gguf file or a hub id"
        )
    return name, {}


@contextmanager
def _quiet_when_small(path: str) -> Iterator[None]:
    """No progress bars for weights that load in a moment."""
    from transformers.utils import logging

    files = list(Path(path).glob("*.safetensors")) if Path(path).is_dir() else []
    small = bool(files) and sum(file.stat().st_size for file in files) < 500e6
    shown = logging.is_progress_bar_enabled()
    if small:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if small and shown:
            logging.enable_progress_bar()
