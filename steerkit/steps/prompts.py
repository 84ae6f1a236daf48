"""Prompts: drawn from their source, dealt to three disjoint splits; what the chat template makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import Field

from steerkit import registry
from steerkit.artifacts import Kind, PluginSpec
from steerkit.context import Run
from steerkit.data.chat_format import ChatFormat
from steerkit.data.rows import as_prompts
from steerkit.data.splits import assign_splits, check_splits
from steerkit.data.trace import Prompt, read_rows, write_rows
from steerkit.errors import InputError, Problem, SteerkitError
from steerkit.interfaces import Config, PromptSource
from steerkit.parts import Step
from steerkit.settings import Chatting

FILE = "prompts.jsonl"


class PromptsConfig(Config):
    source: Annotated[PluginSpec | None, Kind("prompts")] = None
    """Where they come from."""
    extract: int = Field(default=300, ge=1)
    """Prompts whose traces make the vectors."""
    choose: int = Field(default=32, ge=1)
    """Prompts on which the strength is chosen."""
    test: int = Field(default=64, ge=1)
    """Prompts on which claims are made; the three sets are disjoint."""

    def counts(self) -> dict[str, int]:
        """Prompts a split."""
        return {"extract": self.extract, "choose": self.choose, "test": self.test}


class Prompts(Step):
    """All prompts of the run, in ``prompts.jsonl``."""

    Config = PromptsConfig

    def check(self, run: Run) -> Iterator[Problem]:
        if self.config.source is None and run.given is None:
            yield Problem("prompts.source", "there are no prompts", "name where they come from, or give prompts")

    def depends(self, run: Run) -> Any:
        from steerkit.data.chats import to_json

        given = run.given
        return None if given is None else [[p.id, to_json(p.prompt), p.category, p.split, p.answer] for p in given]

    def make(self, run: Run) -> list[Prompt]:
        counts = self.config.counts()
        if run.given is not None:
            return assign_splits(run.given, counts, run.seed)
        source = registry.build("prompts", self.config.source)
        source.open(run.folder / f"sources/{source.name}", run.progress)
        found = as_prompts(source.read(counts, run.seed))  # a plugin's may be anything
        check_splits(found, counts)
        if notes := source.notes():
            run.log(prompts=len(found), **notes)
        return found

    def save(self, run: Run, value: list[Prompt]) -> Sequence[str]:
        write_rows(run.folder / FILE, value)
        return [FILE]

    def load(self, run: Run) -> list[Prompt]:
        return read_rows(run.folder / FILE, Prompt)


class Chats(Step):
    """Prompts through the chat template, all of them, before anything is generated: what becomes of them is logged.

    Raises:
        InputError: every prompt that the chat template refuses.
    """

    uses = (Chatting,)

    def needs(self, run: Run) -> Sequence[str]:
        return ("prompts",)

    def models(self, run: Run) -> Sequence[str]:
        return (run.models.writer,)  # its tokenizer

    def check(self, run: Run) -> Iterator[Problem]:
        if run.planned:  # a plan reads no tokenizer
            return
        s, tokenizer = run.peek(Chatting), run.models.peek_tokenizer(run.models.writer)
        try:
            ChatFormat(tokenizer, s.chat, s.chat_template_kwargs, s.chat_date)
        except InputError as error:
            yield from error.problems
        except SteerkitError as error:
            yield Problem("chat", str(error))

    def depends(self, run: Run, prompts: list[Prompt]) -> Any:
        return run.chats.settings()

    def make(self, run: Run, prompts: list[Prompt]) -> dict[str, Any]:
        notes = run.chats.check(prompts)
        if notes:
            run.log(chats=notes)
        return notes


def source_of(run: Run) -> PromptSource | None:
    """The run's prompt source, opened; None where prompts were given as objects."""
    spec = Prompts(**run.settings.own("prompts")).config.source
    return None if spec is None else run.plugin("prompts", spec)
