"""Prompts from anything that `datasets` reads: the hub, or local parquet, json and csv files."""

from __future__ import annotations

from collections.abc import Mapping

from steerkit.errors import SteerkitError
from steerkit.interfaces import Config
from steerkit.sources import PromptSource, as_prompts, assign_splits
from steerkit.trace import Prompt


class DatasetConfig(Config):
    path: str
    """Hub id, or a builder (`parquet`, `json`, `csv`) with `data_files`."""
    name: str | None = None
    """Configuration of the data set."""
    data_files: str | None = None
    """Local file or pattern for a builder."""
    split: str = "train"
    """Split of the data set to read (not steerkit's)."""
    prompt: str = "prompt"
    """Column with the prompt's text."""
    answer: str | None = None
    """Column with the checkable answer."""


class DatasetPrompts(PromptSource):
    """Prompts of a `datasets` data set, dealt to the splits by the seed."""

    Config = DatasetConfig

    def read(self, counts: Mapping[str, int], seed: int) -> list[Prompt]:
        from datasets import load_dataset

        c = self.config
        try:
            data = load_dataset(c.path, c.name, data_files=c.data_files, split=c.split)
        except Exception as error:  # datasets raises many kinds, a user needs one
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise SteerkitError(f"data set {c.path}: can't be loaded: {reason}") from error
        for column in filter(None, (c.prompt, c.answer)):
            if column not in data.column_names:
                raise SteerkitError(f"data set {c.path}: no column {column!r}; it has {', '.join(data.column_names)}")
        rows = ({"prompt": row[c.prompt], **({"answer": row[c.answer]} if c.answer else {})} for row in data)
        return assign_splits(as_prompts(rows), counts, seed)
