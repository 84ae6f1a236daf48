"""Rubrics as data: what is asked about a text, and which way its points are better."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator

from steerkit.errors import SteerkitError
from steerkit.interfaces import Config
from steerkit.store.bounded_yaml import load
from steerkit_plugins.llm.completion import writable

Better = Literal["up", "down", "neither"]

PLACE = "{text}"
_PLACEHOLDER = re.compile(r"\{[A-Za-z_]+\}")
_SHIPPED = Path(__file__).parent / "rubrics"


class Rubric(Config):
    ask: str
    """What the model is asked. `{text}` stands for the text; the answer must be a number from 0 to 100 alone."""
    better: Better = "neither"
    """Which way the points are better."""
    about: str = Field(default="", max_length=200)
    """What they measure, in a line; figures print it."""

    @field_validator("ask")
    @classmethod
    def _has_a_place(cls, value: str) -> str:
        if PLACE not in value:
            raise ValueError(f"has no {PLACE} in it, the place of the text that is scored")
        if others := sorted({*_PLACEHOLDER.findall(value)} - {PLACE}):
            raise ValueError(
                f"has {', '.join(others)}, but a judge is given one text: write {PLACE} alone; with "
                "`scored: everything` that text begins with the prompt"
            )
        return value

    def prompt(self, text: str) -> str:
        """What is asked about a text."""
        return self.ask.replace(PLACE, writable(text))


def is_file(rubric: str) -> bool:
    """Whether a rubric of a recipe is a name or a path, and not the text itself."""
    return PLACE not in rubric and "\n" not in rubric.strip() and not _PLACEHOLDER.search(rubric)


def find_rubric(name: str) -> Path:
    """The file of a rubric. Raises: SteerkitError when it is neither a file nor a shipped one's name."""
    for path in (Path(name), _SHIPPED / f"{name}.yaml"):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.stem for path in _SHIPPED.glob("*.yaml")))
    raise SteerkitError(
        f"rubric {name!r} is neither a file, nor a shipped one ({known}), nor a text with {PLACE}, the place of "
        "what is scored"
    )


def load_rubric(rubric: str) -> Rubric:
    """A rubric by its text, its file, or its name.

    Raises:
        SteerkitError: there is no such file, or it holds something else.
    """
    path = find_rubric(rubric) if is_file(rubric) else None
    data = load(path) if path else {"ask": rubric}
    where = f"{path}: " if path else ""
    if not isinstance(data, dict):
        raise SteerkitError(f"{where}must be a mapping with `ask`, and with `better` and `about` if you like")
    try:
        return Rubric(**{str(name): value for name, value in data.items()})
    except ValidationError as error:
        said = "; ".join(f"{'.'.join(map(str, e['loc']))}: {_words(e['msg'])}" for e in error.errors())
        raise SteerkitError(f"{where}{said}") from error


def _words(message: str) -> str:
    return message.removeprefix("Value error, ")
