"""Prompts from a jsonl file: one object a line with `prompt`, and `id`, `category`, `answer`, `split` if known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from steerkit.data.responses import with_responses
from steerkit.data.rows import prompts_of
from steerkit.data.splits import assign_splits
from steerkit.data.trace import Prompt, read_jsonl
from steerkit.errors import InputError, Problem, SteerkitError
from steerkit.interfaces import Config, PromptSource


class JsonlConfig(Config):
    path: str
    """The file, relative to the current folder. Each line is an object with `prompt` (a text, or a list of messages)
    or `messages`."""
    response: str | None = None
    """Text that follows each prompt, to train on, with fields of the line in braces: `{trace}`. Left out: lines are
    prompts, or chats that end in the response."""

    def reads(self) -> dict[str, list[Path]]:
        return {"path": [Path(self.path)]}


class JsonlPrompts(PromptSource):
    """Prompts of a jsonl file; those without a `split` are dealt by the seed."""

    Config = JsonlConfig

    def at_hand(self) -> bool:
        return True

    def read(self, counts: Mapping[str, int], seed: int) -> list[Prompt]:
        path = Path(self.config.path)
        if not path.is_file():
            raise SteerkitError(f"{path}: no such prompts file; the path is relative to {Path.cwd()}")
        problems: list[Problem] = []
        rows = read_jsonl(path, problems, keep_numbers=True)
        placed: Iterable[tuple[str, Mapping[str, Any]]] = ((f"{path}:{number}", row) for number, row in rows)
        if self.config.response is not None:
            placed = with_responses(placed, self.config.response, problems)
        prompts = prompts_of(placed, problems)
        if problems:
            raise InputError(str(path), sorted(problems, key=lambda p: int(p.where.rsplit(":", 1)[1])))
        if not rows:
            raise SteerkitError(f'{path}: is empty; each line is a JSON object such as {{"prompt": "..."}}')
        return assign_splits(prompts, counts, seed)
