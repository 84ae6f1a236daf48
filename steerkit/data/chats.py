"""Prompts as chats: a text, or messages with roles. Everything that reads a prompt checks it here."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from steerkit.store.strict_json import Number

Role = Literal["system", "user", "assistant"]
ROLES: tuple[str, ...] = get_args(Role)

TOOL_ROLES = ("tool", "function", "ipython", "tool_response")
TURN_KEYS = ("from", "value")  # ShareGPT's names
_WRITTEN = re.compile(r"""\s*\[\s*\{\s*(["'])(?:role|content|from|value)\1\s*:""")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: Role
    content: str


Chat = str | tuple[Message, ...]
"""A prompt: a text, or the messages of a conversation. A last assistant message is continued by the model.

On disk a chat is the text, or a JSON list of ``{"role", "content"}``.
"""


def parse_chat(value: Any) -> tuple[Chat, list[str]]:
    """A prompt from a file or a caller, and everything that is wrong with it (then the prompt is not to be used).

    Taken are a text, and a list of messages: mappings with `role` and `content`, or `Message`s. `content` may be a
    list of text parts (``{"type": "text", "text": ...}``), which are joined without anything between them.
    """
    if hasattr(value, "tolist"):  # numpy's arrays and scalars
        value = value.tolist()
    if is_text(value):
        return str(value), _wrong_text(value)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        messages, problems = [], []
        for number, item in enumerate(value, 1):
            message, wrong = _message(item)
            messages.append(message)
            problems += [f"message {number} {what}" for what in wrong]
        return tuple(messages), [*problems, *_wrong_order(messages, whole=not problems)]
    return "", [f"must be a text or a list of messages, not {kind_of(value)}"]


def is_text(value: Any) -> bool:
    """Whether a value is a text, and not a number that is kept as its file writes it."""
    return isinstance(value, str) and not isinstance(value, Number)


def kind_of(value: Any) -> str:
    """What a value is, in the words of someone who wrote JSON."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float | Number):
        return "NaN, which tables have for an empty cell" if value != value else "a number"
    if isinstance(value, Mapping):
        keys = ", ".join(map(repr, list(value)[:4]))
        return f"a mapping (with {keys})" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return "a list"
    return type(value).__name__


def _wrong_text(text: str) -> list[str]:
    if not text.strip():
        return ["is empty"]
    if _WRITTEN.match(text):
        return [
            "is a list of messages written as a text; give a list (jsonl and parquet can hold one, CSV can't). If the "
            "text itself is meant, make it the content of a user message"
        ]
    return _wrong_characters(text)


def _wrong_characters(text: str) -> list[str]:
    try:
        text.encode()
    except UnicodeEncodeError:
        return ["has half of a surrogate pair, which is no text"]
    return []


def _message(item: Any) -> tuple[Message, list[str]]:
    if isinstance(item, Message):
        item = {"role": item.role, "content": item.content}
    if not isinstance(item, Mapping):
        more = "; one prompt is one conversation" if isinstance(item, list | tuple) else ""
        return Message("user", ""), [f"must be a mapping with 'role' and 'content', not {kind_of(item)}{more}"]
    given = {key: value for key, value in item.items() if value is not None}  # tables fill up with null
    if all(key in given for key in TURN_KEYS) and "role" not in given:
        return Message("user", ""), [
            "has 'from' and 'value'; rename them to 'role' (system, user, assistant), 'content'"
        ]
    content, problems = _content(given)
    wrong = [*_wrong_role(given), *problems]
    if extra := [repr(key) for key in given if key not in ("role", "content", "tool_calls")]:
        wrong.append(f"has {', '.join(extra)}, which would be lost; a message has 'role' and 'content' alone")
    return Message(given.get("role", "user"), content), wrong


def _wrong_role(message: Mapping[str, Any]) -> list[str]:
    role = message.get("role")
    if message.get("tool_calls"):
        return ["calls tools; prompts hold system, user and assistant texts alone"]
    if role is None:
        return ["has no 'role'"]
    if role in TOOL_ROLES:
        return [f"is a tool's turn (role {role!r}); prompts hold system, user and assistant texts alone"]
    if role not in ROLES:
        return [f"has the unknown role {role!r}; roles are {', '.join(ROLES)}"]
    return []


def _content(message: Mapping[str, Any]) -> tuple[str, list[str]]:
    content = message.get("content")
    if content is None:
        return "", [] if message.get("tool_calls") else ["has no 'content'"]
    if isinstance(content, list | tuple):
        parts = [_part(part, number) for number, part in enumerate(content, 1)]
        text, wrong = "".join(text for text, _ in parts), [problem for _, problem in parts if problem]
        return text, wrong or ([] if text.strip() else ["is empty"])
    if not is_text(content):
        return "", [f"has a 'content' that is {kind_of(content)}, not a text"]
    return str(content), _wrong_characters(content) if content.strip() else ["is empty"]


def _part(part: Any, number: int) -> tuple[str, str]:
    """The text of a part of a content, and what is wrong with it."""
    if not isinstance(part, Mapping):
        return "", f"has a part {number} that is {kind_of(part)}, not a text part"
    kind, text = part.get("type"), part.get("text")
    if kind != "text":
        return "", f"has a part {number} of the type {kind!r}; only text is read (no images, audio, files or tools)"
    return (str(text), "") if is_text(text) else ("", f"has a text part {number} without 'text'")


def _wrong_order(messages: Sequence[Message], whole: bool) -> list[str]:
    """What no template can take; whether turns must alternate is for the template to say."""
    wrong = [
        f"message {number} is a second system message; there is one at most"
        if any(m.role == "system" for m in messages[: number - 1])
        else f"message {number} is the system message, which must come first"
        for number, message in enumerate(messages, 1)
        if message.role == "system" and number > 1
    ]
    if not messages:
        return ["is an empty list of messages"]
    asked = not whole or any(m.role == "user" for m in messages)
    return wrong if asked else [*wrong, "has no user message"]


def messages_of(chat: Chat) -> tuple[Message, ...]:
    """The messages of a prompt; a text is a user message."""
    return (Message("user", chat),) if isinstance(chat, str) else chat


def instructed(chat: Chat, system: str = "", prefix: str = "") -> Chat:
    """A prompt with an instruction: a system message before it, a text before its first user message, or both.

    The user message follows `prefix` as it is: a space or a blank line between them belongs to `prefix`. An empty one
    changes nothing.
    """
    messages = messages_of(chat)
    if prefix:
        first = next(number for number, message in enumerate(messages) if message.role == "user")
        asked = Message("user", prefix + messages[first].content)
        messages = (*messages[:first], asked, *messages[first + 1 :])
    if system:
        messages = (Message("system", system), *messages)
    return messages if system or prefix else chat


def split_response(chat: Chat) -> tuple[Chat, str]:
    """A chat without its last assistant message, and that message; empty where there is none."""
    if isinstance(chat, str) or chat[-1].role != "assistant":
        return chat, ""
    return chat[:-1], chat[-1].content


def identity(chat: Chat) -> str:
    """What two prompts share when models read the same: a text and a lone user message of it do."""
    messages = messages_of(chat)
    if len(messages) == 1:
        return messages[0].content
    return json.dumps([[m.role, m.content] for m in messages], ensure_ascii=False)


def to_json(chat: Chat) -> str | list[dict[str, str]]:
    """A prompt as it is on disk, and as `apply_chat_template` takes messages."""
    return chat if isinstance(chat, str) else [{"role": m.role, "content": m.content} for m in chat]


def as_text(chat: Chat) -> str:
    """A prompt for people to read: the text, or each message under its role."""
    return chat if isinstance(chat, str) else "\n\n".join(f"[{m.role}]\n{m.content}" for m in chat)
