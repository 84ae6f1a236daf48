"""Texts that a model has no positions for, and token ids that its embedding has no rows for: told beforehand."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from steerkit.errors import SteerkitError

if TYPE_CHECKING:
    from steerkit.data.trace import Item
    from steerkit.models.language_model import LanguageModel

log = logging.getLogger("steerkit")
COUNTS = ("max_position_embeddings", "n_positions", "max_seq_len")
_TABLE = re.compile(r"(?:^|\.)(?:wpe|embed_positions|position_embeddings|positions_embed)$")
_told: set[tuple[str, int]] = set()


def check_lengths(lm: LanguageModel, longest: int, what: str) -> None:
    """Raises: SteerkitError when a text of so many tokens has more than the model has positions for.

    Rotary models compute any position: beyond those they were made for, this is logged.
    """
    most, table = positions(lm)
    if most is None or longest <= most:
        return
    if table:
        raise SteerkitError(
            f"{lm.name}: {what} has {longest:,} tokens, and the model has {most:,} positions (a table): take shorter "
            "texts, or a lower max_new_tokens"
        )
    if (lm.name, most) not in _told:
        _told.add((lm.name, most))
        log.warning(
            "%s: %s has %d tokens; the model was made for %d, and may write worse beyond", lm.name, what, longest, most
        )


def check_items(lm: LanguageModel, items: Sequence[Item]) -> None:
    """Raises: SteerkitError when a trace has token ids or positions that the model hasn't."""
    check_ids(lm, (item.ids for item in items))
    longest = max(items, key=lambda item: len(item.ids), default=None)
    if longest is not None:
        check_lengths(lm, len(longest.ids), f"trace {longest.trace.id!r}")


def check_ids(lm: LanguageModel, texts: Iterable[Sequence[int]]) -> None:
    """Raises: SteerkitError when a token id is not a row of the model's embedding."""
    rows = lm.model.get_input_embeddings().weight.shape[0]
    beyond = sorted(
        {i for ids in texts if ids and (max(ids) >= rows or min(ids) < 0) for i in ids if not 0 <= i < rows}
    )
    if beyond:
        shown = ", ".join(f"{i}{_text(lm.tokenizer, i)}" for i in beyond[:3]) + (", ..." if len(beyond) > 3 else "")
        raise SteerkitError(
            f"{lm.name}: token {shown} is not in the model's embedding, which has {rows:,} rows: the tokenizer has "
            "more tokens than the model; take the one that it was trained with (or map the id under `id_map`)"
        )


def positions(lm: LanguageModel) -> tuple[int | None, bool]:
    """How many positions a model is made for (None: any number), and whether they are rows of a table."""
    import torch

    tables = []
    for path, module in lm.decoder.named_modules():
        if _TABLE.search(path) and isinstance(module, torch.nn.Embedding):
            tables.append(module.num_embeddings - int(getattr(module, "offset", 0)))
        for own, buffer in module.named_buffers(recurse=False):  # sines of GPT-J and CodeGen
            if own == "embed_positions":
                tables.append(buffer.shape[0])
    if type(lm.config).__name__ == "MptConfig":  # biases for so many positions
        tables.append(int(lm.config.max_seq_len))
    if isinstance(sines := getattr(lm.decoder, "pos_encoding", None), torch.Tensor):  # CTRL's
        tables.append(sines.shape[0])
    if tables:
        return min(tables), True
    return next((n for name in COUNTS if isinstance(n := getattr(lm.config, name, None), int) and n > 0), None), False


def _text(tokenizer: Any, index: int) -> str:
    token = tokenizer.convert_ids_to_tokens(index) if tokenizer is not None and index >= 0 else None
    return f" ({token!r})" if token else ""
