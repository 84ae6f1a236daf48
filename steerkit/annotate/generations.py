"""The texts that a run generated, as they are labelled by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steerkit.annotate.tasks import Text
from steerkit.data.chats import as_text
from steerkit.data.generated import Generation
from steerkit.data.tokens import split_answer
from steerkit.data.trace import Prompt, read_jsonl, read_rows
from steerkit.errors import InputError, Problem, SteerkitError
from steerkit.store.folder import read_recipe

FOLDER = "generations"
TYPES = {"split": str, "condition": str, "prompt_id": str, "sample": int, "text": str}


def generation_files(run: Path) -> list[Path]:
    """The files of a run's generations, one a split; none where nothing has been generated."""
    return sorted((run / FOLDER).glob("*.jsonl"))


def read_generations(run: Path) -> list[Generation]:
    """The generations of all splits.

    Raises:
        SteerkitError: there are none yet.
        InputError: all damaged lines.
    """
    files = generation_files(run)
    if not files:
        raise SteerkitError(f"{run / FOLDER}: holds no generations: run the recipe until they are made")
    found: list[Generation] = []
    problems: list[Problem] = []
    for path in files:
        for number, row in read_jsonl(path, problems):
            if wrong := _wrong(row):
                problems.append(Problem(f"{path}:{number}", wrong))
            else:
                found.append(Generation.from_json(row))
    if problems:
        raise InputError(str(run / FOLDER), problems)
    return found


def _wrong(row: Any) -> str:
    """What is wrong with a line, or an empty string."""
    if not isinstance(row, dict):
        return f"a JSON object was expected, not {type(row).__name__}"
    wrong = [name for name, kind in TYPES.items() if not isinstance(row.get(name), kind)]
    wrong += [name for name in ("added_norm", "finished") if name not in row]
    return f"{', '.join(map(repr, wrong))} missing, or of another type" if wrong else ""


def generation_texts(run: Path) -> dict[str, Text]:
    """The reasoning of each generation by its id (`Generation.id`)."""
    marker = read_recipe(run)["think_end"]
    prompts = {prompt.id: as_text(prompt.prompt) for prompt in read_rows(run / "prompts.jsonl", Prompt)}
    return {
        row.id: Text(text=split_answer(row.text, marker)[0], prompt=prompts.get(row.prompt_id, ""))
        for row in read_generations(run)
    }
