"""Prompts from anything that `datasets` finds: the hub, or local parquet, json and csv files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from glob import glob
from pathlib import Path
from typing import Any

from steerkit.data.responses import fields_of, with_responses
from steerkit.data.rows import prompts_of
from steerkit.data.splits import assign_splits
from steerkit.data.trace import Prompt
from steerkit.errors import InputError, Problem, SteerkitError
from steerkit.interfaces import Config, PromptSource
from steerkit_plugins.prompts.written import Rows, csv_rows, json_rows

OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
BUILDERS = ("csv", "json", "parquet")
"""Those that read nothing but `data_files`."""
FOUND_BY = ("name", "version", "description", "data_dir", "data_files", "features", "sep", "delimiter")
"""Settings of a builder that say where its files are, or that are followed here."""


class DatasetConfig(Config):
    path: str
    """Hub id, a local folder, or a builder (`parquet`, `json`, `csv`) with `data_files`. Cells of json and csv files
    are kept as they are written."""
    name: str | None = None
    """Configuration of the data set."""
    data_files: str | tuple[str, ...] | None = None
    """Local files or patterns for a builder, relative to the current folder."""
    split: str = "train"
    """Split of the data set to read (not steerkit's), also a slice: `test[:500]`."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    prompt: str | None = None
    """Column with the prompt: a text, or a list of messages. `prompt` when left out, or else `messages`."""
    response: str | None = None
    """Text that follows each prompt, to train on, with columns in braces: `{solution}`. Left out: rows are prompts, or
    chats that end in the response."""
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

    def at_hand(self) -> bool:
        files = self._patterns()
        local = Path(self.config.path).is_dir() or self.config.path in BUILDERS
        return local and not any("://" in file for file in files)

    def read(self, counts: Mapping[str, int], seed: int) -> list[Prompt]:
        """Raises: SteerkitError when the data set can't be loaded, lacks a column, or has rows without a prompt."""
        problems: list[Problem] = []
        columns, rows = self._rows(problems)
        if not rows:
            raise InputError(self._named, problems) if problems else SteerkitError(f"{self._named}: holds no rows")
        chosen = self._columns(columns)
        template = self.config.response
        own = set(fields_of(template)) if template else set()
        placed: Iterable[tuple[str, Mapping[str, Any]]] = (
            (where, {**{name: row.get(name) for name in own}, **{k: row.get(column) for k, column in chosen.items()}})
            for where, row in rows
        )
        prompts = prompts_of(with_responses(placed, template, problems) if template else placed, problems)
        if problems:
            raise InputError(self._named, problems)
        return assign_splits(prompts, counts, seed)

    @property
    def _named(self) -> str:
        return f"data set {self.config.path}"

    def _patterns(self) -> list[str]:
        files = self.config.data_files
        return [files] if isinstance(files, str) else list(files or ())

    def _columns(self, there: Sequence[str]) -> dict[str, str]:
        """Field of a prompt → its column."""
        c = self.config
        prompt = c.prompt or ("messages" if "messages" in there and "prompt" not in there else "prompt")
        wanted = {"messages" if prompt == "messages" else "prompt": prompt}
        wanted |= {k: v for k in ("answer", "category", "id") if (v := getattr(c, k)) is not None}
        needed = [*wanted.values(), *(fields_of(c.response) if c.response else ())]
        missing = [repr(column) for column in needed if column not in there]
        if missing:
            what = f"column {missing[0]}" if len(missing) == 1 else f"columns {', '.join(missing)}"
            raise SteerkitError(f"{self._named}: no {what}; it has {', '.join(there)}")
        return wanted

    def _rows(self, problems: list[Problem]) -> tuple[list[str], Rows]:
        """Names of the columns, and the rows."""
        import datasets
        from datasets.packaged_modules.csv.csv import CsvConfig
        from datasets.packaged_modules.json.json import JsonConfig

        c = self.config
        files = self._patterns() if c.data_files is not None else None
        where = {"data_files": files, "revision": c.revision}
        try:
            builder = datasets.load_dataset_builder(c.path, c.name, **where)
            if isinstance(builder.config, CsvConfig | JsonConfig):
                return self._written(builder, problems)
            data = datasets.load_dataset(c.path, c.name, split=c.split, **where)
            return data.column_names, [(f"{c.path} {c.split}[{number}]", row) for number, row in enumerate(data)]
        except SteerkitError:
            raise
        except Exception as error:  # datasets raises many kinds, a user needs one
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise SteerkitError(f"{self._named}: can't be loaded: {reason}{self._way_out()}") from error

    def _written(self, builder: Any, problems: list[Problem]) -> tuple[list[str], Rows]:
        """Rows of CSV and JSON files, which `datasets` has only found."""
        from datasets import ReadInstruction

        config = builder.config
        changed = [f.name for f in fields(config) if getattr(config, f.name) != getattr(type(config)(), f.name)]
        if unknown := [name for name in changed if name not in FOUND_BY]:
            raise SteerkitError(
                f"{self._named}: sets {', '.join(unknown)} for its files, which can't be followed; plain CSV with a "
                "header line and JSON are read: convert it to parquet or jsonl"
            )
        by_split: dict[str, Rows] = {}
        for split, files in config.data_files.items():
            by_split[split] = []
            for name, path in self._local(builder, files):
                if hasattr(config, "sep"):
                    by_split[split] += csv_rows(path, name, config.sep, problems)
                else:
                    by_split[split] += json_rows(path, name, problems)
        wanted = ReadInstruction.from_spec(self.config.split).to_absolute({k: len(v) for k, v in by_split.items()})
        rows = [row for part in wanted for row in by_split[part.splitname][part.from_ : part.to]]
        return list(dict.fromkeys(column for _, row in rows for column in row)), rows

    def _local(self, builder: Any, files: Sequence[str]) -> list[tuple[str, Path]]:
        """(name for people, local path) of each file; what is remote or packed is fetched and unpacked."""
        from datasets import DownloadConfig, DownloadManager

        options = DownloadConfig(token=builder.token, storage_options=builder.storage_options)
        manager = DownloadManager(download_config=options)
        found = []
        for file in files:
            name = str(file).removeprefix(f"{Path.cwd()}/")
            paths = [Path(path) for path in manager.iter_files(manager.download_and_extract(str(file)))]
            found += [(name if len(paths) == 1 else f"{name}/{path.name}", path) for path in paths]
        return found

    def _way_out(self) -> str:
        """What to do where the hub was asked for and may not be."""
        local = Path(self.config.path).exists() or self.config.data_files is not None
        set_ = [name for name in OFFLINE if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")]
        if local or not set_:
            return ""
        return f"\n  {' and '.join(set_)} is set: only local files and the cache can be read"
