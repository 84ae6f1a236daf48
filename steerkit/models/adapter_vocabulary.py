"""The tokenizer and the vocabulary that come with an adapter."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steerkit.errors import SteerkitError
from steerkit.models.adapter_kinds import own_tokens
from steerkit.models.hub import is_hub_id
from steerkit.models.load_errors import explained


def fit_vocabulary(model: Any, config: Any, given: Mapping[str, Any]) -> int:
    """Make the base's vocabulary as large as that which an adapter was trained with; the size that it had.

    New rows are NaN until the adapter's tensors take their place.
    """
    import torch

    before = int(model.get_input_embeddings().weight.shape[0])
    names = {id(module): path for path, module in model.named_modules()}
    layers = [layer for layer in (model.get_input_embeddings(), model.get_output_embeddings()) if layer is not None]
    keys = {f"base_model.model.{names[id(layer)]}.{own}weight" for layer in layers for own in ("", "base_layer.")}
    rows = {int(value.shape[0]) for key, value in given.items() if key in keys}
    rows |= {index + 1 for index in own_tokens(config) if index >= before}
    if rows <= {before}:
        return before
    model.resize_token_embeddings(max(rows), mean_resizing=False)
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            if layer is not None:
                layer.weight[before:] = float("nan")
    return before


def check_rows(adapter: str, model: Any, before: int) -> None:
    """Raises: SteerkitError when rows that the vocabulary got for an adapter are not in it.

    Where the adapter has them in tensors of its own, those of the base become zero.
    """
    import torch

    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        if layer is not None and layer.weight[before:].isnan().any():
            raise SteerkitError(
                f"{adapter}: the adapter has a vocabulary of {layer.weight.shape[0]} tokens, and lacks the rows of the "
                "new ones in the embedding or in the head; save it with save_embedding_layers=True"
            )
    rows = model.get_input_embeddings().weight.shape[0]
    with torch.no_grad():
        for weight in model.parameters():
            if rows > before and weight.shape[:1] == (rows,):
                weight[before:].nan_to_num_()


def tokenizer_of(adapter: str, own: Any, trust_remote_code: bool) -> Any:
    """The tokenizer beside an adapter, or the base's with the chat template beside it, or the base's."""
    from transformers import AutoTokenizer

    with explained(adapter):
        if any(beside(adapter, name) for name in ("tokenizer.json", "tokenizer_config.json")):
            found = AutoTokenizer.from_pretrained(adapter, trust_remote_code=trust_remote_code)
            if not found.is_fast:
                raise SteerkitError(f"{adapter}: its tokenizer is not a fast one; convert it with transformers first")
            return found
        if template := beside(adapter, "chat_template.jinja"):
            found = copy.deepcopy(own)
            found.chat_template = template.read_text(encoding="utf-8")
            return found
    return own


def beside(adapter: str, name: str) -> Path | None:
    """A file beside an adapter, here or on the hub."""
    if not is_hub_id(adapter):
        path = Path(adapter, name)
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(adapter, name))
    except (EntryNotFoundError, LocalEntryNotFoundError):
        return None
