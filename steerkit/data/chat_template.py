"""A tokenizer's chat template: what it makes of messages, and what it can't."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from steerkit.data.chats import Message, to_json
from steerkit.data.template_text import arguments_of, pinned, shared, tags_in
from steerkit.errors import InputError, Problem, SteerkitError, nearest

WHERE = "chat_template_kwargs"
SYSTEM, USER, ANSWER = "\u00a7system\u00a7", "\u00a7user\u00a7", "\u00a7answer\u00a7"  # texts that it is tried on


class ChatTemplate:
    """One tokenizer's template with its arguments. What it understands is found by trying it.

    Args:
        arguments: what it is given beside the messages.
        day: YYYY-MM-DD, what it is told when it asks for today's date.
        default_system: whether a system turn that it writes without being given one stays.

    Raises:
        SteerkitError: the tokenizer has several templates, none of them the default.
        InputError: every argument that the template never reads.
    """

    def __init__(self, tokenizer: Any, arguments: Mapping[str, Any], day: str, *, default_system: bool = True) -> None:
        try:
            self.text = str(tokenizer.get_chat_template())
        except ValueError as error:
            raise SteerkitError(f"the chat template can't be used: {error}; or use chat: no") from error
        self._tokenizer, self._arguments, self._day = tokenizer, dict(arguments), day
        self._pinned = pinned(self.text, day)
        self._keeps_default = default_system
        self._tried: dict[tuple[str, ...], int] = {}
        if self._arguments:
            self._check_arguments()

    def render(self, messages: Sequence[Message], *, opened: bool, day: str = "") -> str:
        """The messages as the model reads them.

        Args:
            opened: whether the model's turn is opened at the end (`add_generation_prompt`).

        Raises:
            SteerkitError: the template refuses them.
        """
        text = self._written(messages, opened=opened, day=day)
        if self._keeps_default or messages[0].role == "system":
            return text
        first, default = self._default_turn
        return first + text.removeprefix(first + default)

    def _written(self, messages: Sequence[Message], *, opened: bool, day: str = "") -> str:
        try:
            text = self._tokenizer.apply_chat_template(
                to_json(tuple(messages)),
                chat_template=pinned(self.text, day) if day else self._pinned,
                tokenize=False,
                add_generation_prompt=opened,
                **self._arguments,
            )
        except Exception as error:  # a template is a program of its model's makers, and may raise anything
            raise SteerkitError(f"the chat template refuses it: {error or type(error).__name__}") from error
        return str(text)

    def fitted(self, messages: Sequence[Message]) -> list[Message]:
        """The messages as the template takes them: a system text that it has no role for goes to the first user's.

        Raises:
            SteerkitError: the template refuses these roles in this order, or leaves a message out.
        """
        found = list(messages)
        if found[0].role == "system" and not self.has_system:
            system, *found = found
            place = next(i for i, m in enumerate(found) if m.role == "user")
            if system.content:
                found[place] = Message("user", f"{system.content}\n\n{found[place].content}")
        roles = tuple(m.role for m in found)
        if roles not in self._tried:
            tries = [Message(m.role, f"\u00a7{number}\u00a7") for number, m in enumerate(found)]
            text = self.render(tries, opened=True)
            self._tried[roles] = next((n for n, m in enumerate(tries, 1) if m.content not in text), 0)
        if lost := self._tried[roles]:
            raise SteerkitError(f"the chat template leaves out message {lost} of the roles {', '.join(roles)}")
        return found

    @cached_property
    def has_system(self) -> bool:
        """Whether it has a system role: takes one, keeps its text, and writes it otherwise than a user's."""
        told = [Message("system", SYSTEM), Message("user", USER)]
        try:
            text = self._written(told, opened=True)
        except SteerkitError:
            return False
        if SYSTEM not in text:
            return False
        try:
            return text != self._written([Message("user", SYSTEM), told[1]], opened=True)
        except SteerkitError:
            return True

    @cached_property
    def _default_turn(self) -> tuple[str, str]:
        """What begins every text (``<s>``, say), and the system turn that stands behind it where none was given.

        Before the user's text stand that turn and what opens the user's. The latter is known from a second user turn:
        there it follows what closes the model's.
        """
        asked, answered = Message("user", USER), Message("assistant", ANSWER)
        head = self._written([asked], opened=False).partition(USER)[0]
        closed = self._written([asked, answered], opened=False).partition(ANSWER)[2]
        again = self._written([asked, answered, Message("user", SYSTEM)], opened=False)
        opening = again.partition(ANSWER)[2].partition(SYSTEM)[0].removeprefix(closed)
        first = self._tokenizer.bos_token or ""
        first = first if head.startswith(first) else ""
        before = head[len(first) :]
        if before == opening or self._always_begins(first + before.removesuffix(opening)):
            return first, ""
        if not opening or not before.endswith(opening):
            raise SteerkitError(
                "the chat template writes a system text of its own, and where it ends can't be told; give a system "
                "message, or use default_system=True"
            )
        return first, before.removesuffix(opening)

    def _always_begins(self, text: str) -> bool:
        """Whether every conversation begins with this text, also one that has a system message."""
        told = [Message("system", SYSTEM), Message("user", USER)]
        return not self.has_system or self._written(told, opened=False).startswith(text)

    @cached_property
    def dated(self) -> bool:
        """Whether it writes a date that it isn't given."""
        asked = [Message("user", USER)]
        days = (self._day, "1999-12-31")
        return self._pinned != self.text and len({self.render(asked, opened=True, day=day) for day in days}) > 1

    def places(self, opening: str) -> list[int]:
        """Where something whole begins in what opens the model's turn: the turn, what follows its header, each tag."""
        return [0, min(self.header, len(opening)), *tags_in(opening, self._tokens)]

    @cached_property
    def _tokens(self) -> list[str]:
        """Tokens that the tokenizer always cuts out whole."""
        return list(self._tokenizer.get_added_vocab())

    @cached_property
    def header(self) -> int:
        """Characters of what opens the model's turn that its past turns begin with, too; the rest is ``<think>``."""
        asked = [Message("user", USER)]
        try:
            closed, opened = (self.render(asked, opened=how) for how in (False, True))
            past = self.render([*asked, Message("assistant", ANSWER), Message("user", USER)], opened=False)
        except SteerkitError:
            return 0
        start = shared(closed, opened)
        return shared(opened[start:], past[start:])

    def _check_arguments(self) -> None:
        from jinja2 import TemplateError

        try:
            known = [name for name in arguments_of(self.text) if name not in self._tokenizer.special_tokens_map]
        except TemplateError as error:
            raise SteerkitError(f"the chat template can't be read: {error}") from error
        problems = [
            Problem(f"{WHERE}.{name}", "the chat template never reads it", nearest(name, known))
            for name in self._arguments
            if name not in known
        ]
        if problems:
            raise InputError(WHERE, problems)
