"""What is learned from: a prompt and the response to it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from steerkit.data.chats import Chat, Message, messages_of
from steerkit.data.trace import Prompt
from steerkit.errors import InputError, Problem


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One example.

    Attributes:
        id: unique among the rows; errors name it.
        prompt: what comes before the response: a text, or messages of which the last one is the user's.
        response: what is learned, the end of the model's turn left out (the chat template adds it).
        system: a system message put before the prompt (inoculation). Empty: none is put there, so that the chat
            template's default stays, if it has one. For an *empty* system message give the prompt one
            (``Message("system", "")``); to have no system text at all, make the `ChatFormat` with
            ``default_system=False``.
    """

    id: str
    prompt: Chat
    response: str
    system: str = ""

    @property
    def chat(self) -> Chat:
        """The prompt with its system message."""
        return (Message("system", self.system), *messages_of(self.prompt)) if self.system else self.prompt

    def problems(self) -> list[str]:
        """What is wrong with it, whatever the tokenizer."""
        messages = messages_of(self.prompt)
        found = []
        if not self.response.strip():
            found.append("has no response")
        if not messages or not any(m.content.strip() for m in messages if m.role != "system"):
            found.append("has an empty prompt")
        elif messages[-1].role != "user":
            found.append(f"has a prompt that ends in a message of the role {messages[-1].role}, not user")
        if self.system and any(m.role == "system" for m in messages):
            found.append("has a system text, and a prompt with a system message of its own")
        return found


def rows_of(prompts: Iterable[Prompt]) -> list[TrainingRow]:
    """Rows of prompts whose chats end in an assistant message: that message is the response.

    Raises:
        InputError: every prompt that doesn't end in one.
    """
    rows, problems = [], []
    for prompt in prompts:
        messages = messages_of(prompt.prompt)
        if len(messages) < 2 or messages[-1].role != "assistant":
            problems.append(
                Problem(f"prompt {prompt.id!r}", "does not end in an assistant message, so there is no response")
            )
            continue
        rows.append(TrainingRow(prompt.id, messages[:-1], messages[-1].content))
    if problems:
        raise InputError("rows to train on", problems)
    return rows
