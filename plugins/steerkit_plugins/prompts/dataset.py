"""Prompts from anything that `datasets` reads: the hub, or local parquet, json and csv files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from glob import glob
from pathlib import Path

from steerkit.errors import SteerkitError
from steerkit.interfaces import Config
from steerkit.sources import PromptSource, as_prompts, assign_splits
from steerkit.trace import Prompt

OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")


class DatasetConfig(Config):
    path: str
    """Hub id, a local folder, or a builder (`parquet`, `json`, `csv`) with `data_files`."""
    name: str | None = None
    """Configuration of the data set."""
    data_files: str | tuple[str, ...] | None = None
    """Local files or patterns for a builder, relative to the current folder."""
    split: str = "train"
    """Split of the data set to read (not steerkit's), also a slice: `test[:500]`."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    prompt: str = "prompt"
    """Column with the prompt's text."""
    answer: str | None = None
    """Column with the checkable answer."""
    category: str | None = None
    """Column with the prompt's category."""
    id: str | None = None
    """Column with ids of the prompts; they are numbered when left out."""

    def reads(self) -> dict[str, list[Path]]:
        """Files of a local folder, and local data files; what the hub holds is told by `revision`."""
        folder = Path(self.path)
        inside = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
        patterns = [self.data_files] if isinstance(self.data_files, str) else self.data_files or ()
        named = [Path(path) for each in patterns for path in glob(each)]  # noqa: PTH207  (they may be absolute)
        return {"path": sorted(inside), "data_files": sorted(named)}


class DatasetPrompts(PromptSource):
    """Prompts of a `datasets` data set, dealt to the splits by the seed."""

    Config = DatasetConfig

    def read(self, counts: Mapping[str, int], seed: int) -> list[Prompt]:
        """Raises: SteerkitError when the data set can't be loaded, or lacks a column or a prompt's text."""
        from datasets import load_dataset

        c = self.config
        files = list(c.data_files) if isinstance(c.data_files, tuple) else c.data_files
        try:
            data = load_dataset(c.path, c.name, data_files=files, split=c.split, revision=c.revision)
        except Exception as error:  # datasets raises many kinds, a user needs one
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise SteerkitError(f"data set {c.path}: can't be loaded: {reason}{_way_out()}") from error
        columns = {k: v for k in ("prompt", "answer", "category", "id") if (v := getattr(c, k)) is not None}
        missing = [repr(column) for column in columns.values() if column not in data.column_names]
        if missing:
            what = f"column {missing[0]}" if len(missing) == 1 else f"columns {', '.join(missing)}"
            raise SteerkitError(f"data set {c.path}: no {what}; it has {', '.join(data.column_names)}")
        rows = ({field: row[column] for field, column in columns.items()} for row in data)
        return assign_splits(as_prompts(rows), counts, seed)


def _way_out() -> str:
    set_ = [name for name in OFFLINE if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")]
    return f"\n  {' and '.join(set_)} is set: only local files and the cache can be read" if set_ else ""
