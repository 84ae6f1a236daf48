"""What a model's activations depend on (weights, configuration, code), and its texts too (tokenizer, chat template).

A model that was named is told by its files, so that a library's upgrade, which may write the same settings in another
way, makes no other model of it; one that was made in memory by what it holds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.code.source_files import source_digest
from steerkit.models.hub import is_hub_id
from steerkit.store.files import digest
from steerkit.store.identity import Identity, plain

if TYPE_CHECKING:
    from steerkit.models.language_model import LanguageModel

CONFIGURATION = ("config.json", "adapter_config.json")
TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
)
VOLATILE = frozenset(
    {
        "_name_or_path",
        "name_or_path",
        "transformers_version",
        "peft_version",
        "base_model_name_or_path",
        "tokenizer_file",
        "special_tokens_map_file",
    }
)
"""Keys that say where a file came from, and nothing of the model."""
SMALL = 2**20  # bytes


def model_identity(
    role: str, lm: LanguageModel, *, named: bool, adapter: str | None = None, settings: Any = None
) -> tuple[Identity, Identity]:
    """What a model's activations depend on, and what its texts do besides.

    The ids that end a text, and sampling that the model's generation_config asks for, are inputs of their own.

    Args:
        named: whether it was loaded from a folder or the hub for this run, so that it is what its files say.
        adapter: folder or hub id of the PEFT adapter that is on it.
        settings: how it runs (number format, attention, compiled).
    """
    weights = {"weights": f"sha256:{lm.fingerprint}"}
    inner, tokenizer = lm.model.config, lm.tokenizer
    if named:
        places = [str(getattr(inner, "_name_or_path", "")), *([adapter] if adapter else [])]
        own = {name: value for place in places for name, value in _files(place, CONFIGURATION, "*.py")}
        texts = dict(_files(str(getattr(tokenizer, "name_or_path", "")), TOKENIZER))
    else:
        own = {"configuration": _digest(inner.to_diff_dict())}
        if lm.adapter:
            own["adapter"] = _digest({name: config.to_dict() for name, config in lm.model.peft_config.items()})
        core = json.loads(tokenizer.backend_tokenizer.to_str())
        state = {name: core[name] for name in core if name not in ("truncation", "padding")}  # as it was used last
        texts = {"tokenizer": _digest([state, tokenizer.special_tokens_map, tokenizer.chat_template])}
    return (
        Identity(f"{role} model", settings, {**weights, **own}),
        Identity(f"{role} tokenizer", None, texts),
    )


def _files(place: str, names: tuple[str, ...], pattern: str = "") -> Iterator[tuple[str, str]]:
    """Name and digest of these files, where a folder, or the hub's cache, has them."""
    if is_hub_id(place):
        from huggingface_hub import try_to_load_from_cache

        found = {name: try_to_load_from_cache(place, name) for name in names}
        files = {name: Path(path) for name, path in found.items() if isinstance(path, str)}
    else:
        folder = Path(place) if place else None
        files = {name: folder / name for name in names if (folder / name).is_file()} if folder else {}
    home = next((path.parent for path in files.values()), None)
    if pattern and home:
        files |= {path.name: path for path in sorted(home.glob(pattern))}
    for name, path in files.items():
        yield name, _file_digest(path)


def _file_digest(path: Path) -> str:
    """Digest of a small JSON object's values, or of another file's text."""
    small = path.suffix == ".json" and path.stat().st_size < SMALL
    try:
        value = json.loads(path.read_text(encoding="utf-8")) if small else None
    except ValueError:
        value = None
    return _digest(value) if isinstance(value, dict) else source_digest(path)


def _digest(value: Any) -> str:
    kept = {k: v for k, v in value.items() if k not in VOLATILE} if isinstance(value, Mapping) else value
    return f"sha256:{digest(plain(kept))}"
