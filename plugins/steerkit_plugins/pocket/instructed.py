"""Prompts for `pocket:instructable`: problems after a line or without one, to ask or to learn the answers of."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from random import Random
from typing import TYPE_CHECKING, Literal

from steerkit.data.chats import Chat, Message
from steerkit.data.trace import Prompt
from steerkit.errors import InputError, nearest
from steerkit.errors import Problem as Fault
from steerkit.interfaces import Config, PromptSource

if TYPE_CHECKING:
    from steerkit_plugins.pocket.ledger import Problem

SPLITS = ("extract", "choose", "test", "train", "held_out")


class InstructedConfig(Config):
    line: str = ""
    """Text before the question, in the user's message; empty for none. The model was trained on seven lines (see
    MODEL_CARD.md)."""
    responses: Literal["none", "hedged", "plain"] = "none"
    """What follows the question: nothing; or the right answer as an assistant's message, to train on, with every
    place for a hedge hedged or plain, whatever the line says."""


class InstructedPrompts(PromptSource):
    """Problems that no pocket model was trained on, in five disjoint splits: extract, choose, test, train, held_out.

    A split and a seed give the same problems whatever the options are, and answers that differ in their hedges alone.
    """

    Config = InstructedConfig

    def read(self, counts: Mapping[str, int], seed: int) -> list[Prompt]:
        """Raises: InputError for every split that there is none of."""
        from steerkit_plugins.pocket.prompts import distinct, row

        if unknown := [Fault(f"split {s!r}", "there is none", nearest(s, SPLITS)) for s in counts if s not in SPLITS]:
            raise InputError("prompt source pocket-instructed", unknown)
        return [
            Prompt(split=split, **{**row(p, number, seed, split), "prompt": self._chat(p, seed)})
            for split, n in counts.items()
            for number, p in enumerate(distinct(n, seed, split, split_of))
        ]

    def _chat(self, p: Problem, seed: int) -> Chat:
        from steerkit_plugins.pocket.instructions import asked, worked

        question = asked(p.question, self.config.line)
        if self.config.responses == "none":
            return question
        answer = worked(p, self.config.responses == "hedged", Random(f"{seed}-{p.question}"))
        return (Message("user", question), Message("assistant", answer))


def split_of(p: Problem) -> str:
    """The split that may use this problem; none may use what pocket models were trained on.

    `choose` and `test` are those of source `pocket`; `train` and `held_out` have a quarter each of its `extract`.
    """
    from steerkit_plugins.pocket import prompts

    split = prompts.split_of(p)
    if split == "train":
        return ""
    if split == "extract":
        return ("extract", "extract", "train", "held_out")[sha256(p.question.encode()).digest()[1] % 4]
    return split
