"""Models, tokenizers and sizes of models by name: a source's, a folder, a GGUF file or a hub id."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerkit import registry
from steerkit.errors import SteerkitError, nearest
from steerkit.hub import is_hub_id
from steerkit.model import LanguageModel


def load_model(
    name: str,
    *,
    adapter: str | None = None,
    bf16: bool = False,
    device_map: str | None = None,
    trust_remote_code: bool = False,
    attn_implementation: str | None = None,
    torch_compile: bool = False,
) -> LanguageModel:
    """Load a model and its tokenizer, in eval mode.

    Args:
        name: `source:model` of a model plugin (`pocket:base`), a folder, a GGUF file, or a hub id.
        adapter: folder or hub id of a PEFT adapter to put on it; the weights are loaded once.
        bf16: bfloat16 weights instead of float32.
        device_map: accelerate's (`auto`, `cpu`, …); None puts the model on the GPU if there is one.
        attn_implementation: transformers' attention, its own choice when left out.
        torch_compile: compile the blocks' feed-forward parts.

    Raises:
        SteerkitError: nothing is there under that name, it can't be fetched offline, or it is an encoder-decoder.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from steerkit.supported import refuse_config

    tokenizer = load_tokenizer(name, trust_remote_code=trust_remote_code)
    path, options = _locate(name)
    options["trust_remote_code"] = trust_remote_code
    if "gguf_file" not in options:  # llama.cpp's files hold decoder-only models
        with _explained(name):
            refuse_config(name, AutoConfig.from_pretrained(path, **options))
        options["use_safetensors"] = True  # the other format is pickle
    if attn_implementation:
        options["attn_implementation"] = attn_implementation
    dtype = torch.bfloat16 if bf16 else torch.float32
    with _explained(name), _quiet_when_small(path):
        model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, device_map=device_map, **options)
    if adapter:
        from peft import PeftModel

        with _explained(adapter):
            _check_adapter(adapter)
            model = PeftModel.from_pretrained(model, adapter)
    if device_map is None and torch.cuda.is_available():
        model = model.to("cuda")
    source = "" if adapter or "gguf_file" in options else path
    lm = LanguageModel(name + (f"+{adapter}" if adapter else ""), model.eval(), tokenizer, bool(adapter), source)
    if torch_compile:
        _compile(lm)
    return lm


def _check_adapter(name: str) -> None:
    """Raises: OSError when an adapter's weights are there as pickle alone, which PEFT would read."""
    file = "adapter_model.safetensors"
    if is_hub_id(name):
        from huggingface_hub import hf_hub_download

        hf_hub_download(name, file)
    elif (Path(name) / "adapter_config.json").is_file() and not (Path(name) / file).is_file():
        raise OSError(f"the adapter has no {file}, and weights are not read from pickle")


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
    with _explained(name):
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code, **options)
    if not tokenizer.is_fast:
        raise SteerkitError(f"{name}: its tokenizer is not a fast one; convert it with transformers first")
    return tokenizer


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a model, read from its configuration alone; `body` is the blocks' part of its parameters."""

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

    path, options = _locate(name)
    with _explained(name):
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code, **options)
        with init_empty_weights():
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    lm = LanguageModel(name, model, None)
    heads = lm.config.num_attention_heads
    head = getattr(lm.config, "head_dim", None) or lm.width // heads
    kv_heads = getattr(lm.config, "num_key_value_heads", None) or heads
    body = sum(p.numel() for block in lm.blocks for p in block.parameters())
    return ModelShape(
        name, lm.depth, lm.width, head * kv_heads, model.num_parameters(), body, int(lm.config.vocab_size)
    )


def on_this_disk(name: str) -> bool:
    """Whether a model is named by a path, or by a source whose models are files here.

    Raises:
        SteerkitError: nothing is there under that name.
    """
    return Path(_locate(name)[0]).exists()


def wrap_model(model: Any, tokenizer: Any = None, *, name: str = "") -> LanguageModel:
    """A LanguageModel of a model already in memory; a name is loaded."""
    if isinstance(model, LanguageModel):
        return model
    if isinstance(model, str | Path):
        return load_model(str(model))
    if tokenizer is None:
        raise SteerkitError("a model object needs its tokenizer: LanguageModel(name, model, tokenizer)")
    label = name or getattr(model.config, "name_or_path", "") or type(model).__name__
    return LanguageModel(label, model.eval(), tokenizer, hasattr(model, "disable_adapter"))


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


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn the many ways in which loading fails into one plain message."""
    try:
        yield
    except ImportError as error:
        if "gguf" in str(error).lower():
            raise SteerkitError(f"{name}: reading GGUF needs a package: pip install 'gguf>=0.17'") from error
        raise SteerkitError(f"{name}: {error}") from error
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SteerkitError(f"{name}: the model can't be loaded: {first}\n  {_way_out(str(error))}") from error


def _way_out(said: str) -> str:
    import os

    if "trust_remote_code" in said:
        return (
            "it brings Python code of its own along: if you trust that, the recipe says trust_remote_code: true "
            "and you give --trust-remote-code"
        )
    if "safetensors" in said:
        return "save it as safetensors: other weights are pickle, which can run code"
    if os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0"):
        return "HF_HUB_OFFLINE is set: only models in the local cache can be named by hub id; give a local folder"
    return "check the spelling, your network and `hf auth login`, or give a local folder"
