"""What goes wrong in reading a model's files, in words."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from steerkit.errors import SteerkitError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SAVE = "save it as safetensors: other weights are pickle, which can run code"
AGAIN = "fetch the files again, or copy them from where they are whole"


@contextmanager
def explained(name: str, path: str = "") -> Iterator[None]:
    """Turn the many ways in which loading fails into one plain message.

    Args:
        name: what is loaded, as the user named it.
        path: its folder, to say which of its files is damaged.
    """
    from safetensors import SafetensorError

    try:
        yield
    except ImportError as error:
        if "gguf" in str(error).lower():
            raise SteerkitError(f"{name}: reading GGUF needs a package: pip install 'gguf>=0.17'") from error
        raise SteerkitError(f"{name}: {error}") from error
    except SafetensorError as error:
        file = _damaged(path or name) or "one of its safetensors files"
        raise SteerkitError(f"{name}: {file} is damaged or was cut off ({error})\n  {AGAIN}") from error
    except (OSError, ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SteerkitError(f"{name}: the model can't be loaded: {first}\n  {_way_out(str(error))}") from error


def check_files(name: str, path: str) -> None:
    """Raises: SteerkitError when a model's folder lacks its weights, or some of the files that they are split over."""
    folder, index = Path(path), Path(path, INDEX)
    if not folder.is_dir() or (folder / WEIGHTS).is_file():
        return
    if not index.is_file():
        pickled = [file.name for end in ("bin", "pt", "pth") for file in folder.glob(f"*.{end}")]
        way_out = f"{sorted(pickled)[0]} is there: {SAVE}" if pickled else AGAIN
        raise SteerkitError(f"{name}: the folder has no {WEIGHTS}, nor {INDEX}\n  {way_out}")
    try:
        files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SteerkitError(f"{name}: {INDEX} can't be read ({error})\n  {AGAIN}") from error
    if missing := sorted(file for file in files if not (folder / file).is_file()):
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise SteerkitError(f"{name}: {len(missing)} of {len(files)} weight files are missing: {shown}\n  {AGAIN}")


def refuse_adapter_as_model(name: str, path: str) -> None:
    """Raises: SteerkitError when an adapter is named as a model, or a model's folder also holds one.

    transformers would put it on by itself, as a part of the model that can't be turned off.
    """
    from transformers.utils.peft_utils import find_adapter_config_file

    with explained(name):
        found = find_adapter_config_file(path)
    if found is None:
        return
    if Path(path, "config.json").is_file():
        raise SteerkitError(f"{name}: a whole model with an adapter in it; move adapter_config.json to another folder")
    raise SteerkitError(
        f"{name}: this is an adapter, not a model: name the model that it was made for, and give this as its adapter"
    )


def _damaged(path: str) -> str:
    """The first safetensors file of a folder that can't be opened."""
    from safetensors import SafetensorError, safe_open

    for file in sorted(Path(path).glob("*.safetensors")):
        try:
            with safe_open(file, "pt"):
                pass
        except SafetensorError:
            return file.name
    return ""


def _way_out(said: str) -> str:
    if "trust_remote_code" in said:
        return (
            "it brings Python code of its own along: if you trust that, the recipe says trust_remote_code: true "
            "and you give --trust-remote-code"
        )
    if "safetensors" in said and ("no file named" in said or "have a file named" in said or "pickle" in said):
        return SAVE
    if "out of memory" in said:
        return "use bf16, a smaller model, or device_map: auto to spread it over several devices"
    if os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0"):
        return "HF_HUB_OFFLINE is set: only models in the local cache can be named by hub id; give a local folder"
    return "check the spelling, your network and `hf auth login`, or give a local folder"
