"""Prompts in pairs: questions under paired instructions, or given pairs of chats; and plain ones to evaluate on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import count, islice, product
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import model_validator

from steerkit import registry
from steerkit.artifacts import Kind, PluginSpec
from steerkit.data.chats import Chat, Message, messages_of, parse_chat
from steerkit.data.pairs import SIDES, side_id
from steerkit.data.splits import assign_splits
from steerkit.data.trace import Prompt, read_jsonl
from steerkit.errors import InputError, Problem, SteerkitError
from steerkit.interfaces import Config, PromptSource
from steerkit.stats.noise import key_of
from steerkit_plugins.traits import Trait, find_trait, load_trait

Pair = tuple[str, Chat, Chat]
"""Its id, its positive and its negative side."""


class ContrastConfig(Config):
    trait: str | None = None
    """Instructions and questions: the name of a shipped trait (`optimistic`, `humorous`) or a YAML file. Extraction
    prompts are its questions under its instructions, each pair of instructions with each question; where more are asked
    for than there are, with further samples."""
    pairs: str | None = None
    """jsonl with `positive` and `negative`, each a text or messages, to use in place of a trait. A last assistant
    message is a completion: `traces: {given: true}` reads it as the trace."""
    questions: Annotated[PluginSpec | None, Kind("prompts")] = None
    """A prompt source whose prompts are asked in place of the trait's questions, in all splits; with `pairs`, it gives
    the choose and test prompts."""
    place: Literal["system", "user"] = "system"
    """Where an instruction stands: in a system message, or at the beginning of the user's."""
    between: str = "\n\n"
    """What stands between instruction and question in a user message."""

    @model_validator(mode="after")
    def _of_one_kind(self) -> Self:
        if (self.trait is None) == (self.pairs is None):
            raise ValueError("give trait or pairs, one of the two")
        if self.trait is not None:
            find_trait(self.trait)
        if self.pairs is not None and self.questions is None:
            raise ValueError(
                "pairs are for extraction; name a prompt source in questions for the choose and test prompts"
            )
        return self

    def reads(self) -> Mapping[str, Sequence[Path]]:
        files = {
            "trait": find_trait(self.trait) if self.trait else None,
            "pairs": Path(self.pairs) if self.pairs else None,
        }
        return {name: [path] for name, path in files.items() if path is not None}


class ContrastPrompts(PromptSource):
    """Extraction prompts in two conditions, choose and test prompts in none.

    Extraction prompts are ``ID/positive`` and ``ID/negative`` of each pair ``ID``, so that `prompts.extract` is twice
    the number of pairs. Of a trait, ``ID`` is question, instructions and sample: ``q03.i1.s0``.
    """

    Config = ContrastConfig

    def at_hand(self) -> bool:
        return self.config.questions is None or self._source.at_hand()

    def open(self, folder: Path, progress: Callable[[int, int], None]) -> None:
        if self.config.questions is not None:
            self._source.open(folder / self.config.questions.name, progress)

    def read(self, counts: Mapping[str, int], seed: int) -> list[Prompt]:
        """Raises: SteerkitError when there are too few pairs or questions, or an odd number is asked for."""
        wanted, odd = divmod(counts["extract"], 2)
        if odd:
            raise SteerkitError(f"prompts.extract: {counts['extract']} is odd, and a pair is two prompts")
        read = self._of_pairs if self.config.pairs else self._of_trait
        pairs, others = read(wanted, {**counts, "extract": 0}, seed)
        sides = [
            Prompt(id=side_id(name, side), prompt=chat, split="extract")
            for name, *chats in pairs
            for side, chat in zip(SIDES, chats, strict=True)
        ]
        return [*sides, *others]

    @cached_property
    def _source(self) -> PromptSource:
        made: PromptSource = registry.build("prompts", self.config.questions)
        return made

    def _of_trait(self, wanted: int, others: Mapping[str, int], seed: int) -> tuple[list[Pair], list[Prompt]]:
        trait = load_trait(self.config.trait)
        instructions = range(len(trait.positive))
        if self.config.questions is None:
            questions: Sequence[Chat] = trait.questions
            found = _evaluation(trait, others, seed)
        else:
            asked = self._source.read({**others, "extract": -(-wanted // len(instructions))}, seed)
            questions = [prompt.prompt for prompt in asked if prompt.split == "extract"]
            found = [prompt for prompt in asked if prompt.split != "extract"]
        if not questions:
            raise SteerkitError(f"trait {trait.name} has no questions; name a prompt source (prompts.source.questions)")
        cells = sorted(islice(_cells(len(questions), len(instructions), seed), wanted))
        pairs = []
        for q, i, sample in cells:
            positive, negative = (self._instructed(questions[q], trait.instruction(i, side)) for side in SIDES)
            pairs.append((f"q{q:02}.i{i}.s{sample}", positive, negative))
        return pairs, found

    def _instructed(self, question: Chat, instruction: str) -> Chat:
        """A question with an instruction before it."""
        messages, c = list(messages_of(question)), self.config
        if c.place == "system":
            if messages[0].role != "system":
                return (Message("system", instruction), *messages)
            at, between = 0, "\n\n"
        else:
            at, between = next(n for n, message in enumerate(messages) if message.role == "user"), c.between
        messages[at] = Message(messages[at].role, f"{instruction}{between}{messages[at].content}")
        return tuple(messages) if len(messages) > 1 else messages[0].content

    def _of_pairs(self, wanted: int, others: Mapping[str, int], seed: int) -> tuple[list[Pair], list[Prompt]]:
        path = Path(self.config.pairs)
        pairs = read_pairs(path)
        if wanted > len(pairs):
            raise SteerkitError(f"{path}: holds {len(pairs)} pairs; prompts.extract can be {2 * len(pairs)} at most")
        chosen = sorted(range(len(pairs)), key=lambda number: key_of(seed, "contrast", pairs[number][0]))[:wanted]
        return [pairs[number] for number in sorted(chosen)], self._source.read(others, seed)


def _evaluation(trait: Trait, counts: Mapping[str, int], seed: int) -> list[Prompt]:
    """The trait's evaluation questions, dealt to the splits.

    Raises:
        SteerkitError: there are too few.
    """
    asked = sum(counts.values())
    if asked > len(trait.evaluation):
        raise SteerkitError(
            f"trait {trait.name} has {len(trait.evaluation)} evaluation questions, and prompts.choose and .test ask "
            f"for {asked}: ask for fewer (`samples` gives more texts a question), or take them from another source "
            "(prompts.source.questions)"
        )
    return assign_splits([Prompt(id=f"e{n:02}", prompt=text) for n, text in enumerate(trait.evaluation)], counts, seed)


def _cells(questions: int, instructions: int, seed: int) -> Iterator[tuple[int, int, int]]:
    """(question, instructions, sample) without end: each pair of them once, in a drawn order, before any twice."""
    for sample in count():
        cells = [(q, i, sample) for q, i in product(range(questions), range(instructions))]
        yield from sorted(cells, key=lambda cell: key_of(seed, "contrast", *cell))


def read_pairs(path: Path) -> list[Pair]:
    """Pairs of a jsonl file with `positive` and `negative`, and `id` if known.

    Raises:
        InputError: every row that is no pair.
        SteerkitError: the file is missing.
    """
    problems: list[Problem] = []
    found: list[Pair] = []
    for number, row in read_jsonl(path, problems):
        where = f"{path}:{number}"
        if not isinstance(row, dict) or not {*SIDES} <= {*row}:
            problems.append(Problem(where, "must be an object with 'positive' and 'negative', each a text or messages"))
            continue
        sides = {side: parse_chat(row[side]) for side in SIDES}
        problems += [Problem(where, f"{side!r} {what}") for side, (_, wrong) in sides.items() for what in wrong]
        positive, negative = (chat for chat, _ in sides.values())
        found.append((str(row.get("id", f"p{len(found):05d}")), positive, negative))
    if problems:
        raise InputError(str(path), problems)
    return found
