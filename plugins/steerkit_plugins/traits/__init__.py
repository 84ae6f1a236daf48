"""Traits as data: YAML files with paired instructions, questions to ask under them, and questions to evaluate on."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError, model_validator

from steerkit.errors import InputError, Problem, SteerkitError
from steerkit.interfaces import Config
from steerkit.store.bounded_yaml import load

SHIPPED = Path(__file__).parent


class Assistant(Config):
    positive: str
    """What the assistant is called on the positive side: the trait's adjective (persona vectors)."""
    negative: str = "helpful"
    """The same on the negative side: an antonym, or `helpful`."""


class Trait(Config):
    """A trait: what brings it out, what holds it back, and what to ask."""

    name: str
    """One word, as reports have it."""
    positive: tuple[str, ...] = Field(min_length=1)
    """Instructions that ask for the trait."""
    negative: tuple[str, ...] = Field(min_length=1)
    """Their opposites, one by one."""
    questions: tuple[str, ...] = ()
    """Questions whose answers make the vector, under every instruction."""
    evaluation: tuple[str, ...] = ()
    """Other questions, for choosing a strength and for claims; asked without an instruction."""
    assistant: Assistant | None = None
    """Puts "You are a ... assistant." before each instruction."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if len(self.positive) != len(self.negative):
            raise ValueError(f"has {len(self.positive)} positive and {len(self.negative)} negative instructions")
        texts = {
            name: [" ".join(text.split()).casefold() for text in getattr(self, name)]
            for name in ("positive", "negative", "questions", "evaluation")
        }
        for name, own in texts.items():
            if not all(own) or len(set(own)) < len(own):
                raise ValueError(f"{name} has an empty text, or one that stands twice")
        if both := {*texts["questions"]} & {*texts["evaluation"]}:
            raise ValueError(
                f"{sorted(both)[0]!r} stands under questions and evaluation: claims need questions of their own"
            )
        return self

    def instruction(self, number: int, side: str) -> str:
        """An instruction, counted from 0, with the assistant's name before it if there is one."""
        text = str(getattr(self, side)[number])
        if self.assistant is None:
            return text
        name = str(getattr(self.assistant, side))
        return f"You are {'an' if name[:1].lower() in 'aeiou' else 'a'} {name} assistant. {text}"


def find_trait(name: str) -> Path:
    """The file of a trait. Raises: ValueError when it is neither a file nor a shipped one's name."""
    for path in (Path(name), SHIPPED / f"{name}.yaml"):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.stem for path in SHIPPED.glob("*.yaml")))
    raise ValueError(f"trait {name!r} is neither a file nor a shipped one ({known})")


def load_trait(name: str) -> Trait:
    """A trait by the name of a shipped one, or of a YAML file.

    Raises:
        ValueError: there is no such file.
        SteerkitError: it is not YAML.
        InputError: everything in it that makes no trait.
    """
    path = find_trait(name)
    data = load(path)
    if not isinstance(data, dict):
        raise SteerkitError(f"{path}: must be a mapping with {', '.join(Trait.model_fields)}")
    try:
        return Trait.model_validate(data)
    except ValidationError as error:
        problems = [
            Problem(f"{path}: {'.'.join(map(str, each['loc'])) or 'trait'}", each["msg"]) for each in error.errors()
        ]
        raise InputError(str(path), problems) from error
