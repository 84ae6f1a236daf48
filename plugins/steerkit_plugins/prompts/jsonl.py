"""Prompts from a jsonl file: one object a line with `prompt`, and `id`, `category`, `answer`, `split` if known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from steerkit.errors import InputError, Problem, SteerkitError
from steerkit.interfaces import Config
from steerkit.sources import PromptSource, as_prompts, assign_splits
from steerkit.trace import Prompt, read_jsonl


class JsonlConfig(Config):
    path: str
    """The file, relative to the current folder."""

    def reads(self) -> dict[str, list[Path]]:
        return {"path": [Path(self.path)]}


class JsonlPrompts(PromptSource):
    """Prompts of a jsonl file; those without a `split` are dealt by the seed."""

    Config = JsonlConfig

    def read(self, counts: Mapping[str, int], seed: int) -> list[Prompt]:
        path = Path(self.config.path)
        if not path.is_file():
            raise SteerkitError(f"{path}: no such prompts file; the path is relative to {Path.cwd()}")
        problems: list[Problem] = []
        rows = read_jsonl(path, problems)
        for number, row in rows:
            if not isinstance(row, dict) or not str(row.get("prompt") or "").strip():
                problems.append(Problem(f"{path}:{number}", "needs a text under 'prompt'"))
        if problems:
            raise InputError(str(path), problems)
        if not rows:
            raise SteerkitError(f'{path}: is empty; each line is a JSON object such as {{"prompt": "..."}}')
        return assign_splits(as_prompts(row for _, row in rows), counts, seed)
