"""What a server answers to a chat request, read whatever shape its text has."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from steerkit.data.drafts import after_draft


@dataclass(frozen=True)
class Answer:
    """What a model said, and what its server said of it.

    Attributes:
        content: its text as it came, with the draft that a reasoning model may have written in it.
        finish: why it ended: `stop`, `length`, `content_filter`, ...
        model: the dated snapshot that answered.
        system_fingerprint: of the server's configuration, where it tells.
        input_tokens, output_tokens: as charged; None when the server doesn't say.
        reasoning: its draft, where the server gives it apart.
        besides: what it holds that is no text: ``tool NAME``, types of parts.
        top_logprobs: (token, natural log of its probability) that the answer could have begun with, the token that it
            did begin with first; empty where they weren't asked for, or the server has none.
    """

    content: str
    refusal: str
    finish: str
    model: str
    system_fingerprint: str
    input_tokens: int | None
    output_tokens: int | None
    reasoning: str = ""
    besides: str = ""
    top_logprobs: tuple[tuple[str, float], ...] = ()

    @property
    def said(self) -> str:
        """The answer proper, its draft cut off; empty when there is none."""
        return (after_draft(self.content) or "").strip()


def read_answer(body: str) -> Answer:
    """The answer in the body of a chat completion.

    Raises:
        ValueError: it is none, in words.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError("the body is no JSON") from error
    try:
        choice = value["choices"][0]
        message, usage = choice["message"], value.get("usage") or {}
        parts = _parts(message.get("content"))
        return Answer(
            content="".join(_kind(parts, "text")),
            refusal=_text(message.get("refusal")) or "".join(_kind(parts, "refusal")),
            finish=str(choice.get("finish_reason") or ""),
            model=str(value.get("model") or ""),
            system_fingerprint=str(value.get("system_fingerprint") or ""),
            input_tokens=_count(usage.get("prompt_tokens")),
            output_tokens=_count(usage.get("completion_tokens")),
            reasoning=_text(message.get("reasoning_content") or message.get("reasoning"))
            or "".join(_kind(parts, "reasoning")),
            besides=", ".join(dict.fromkeys((*_called(message), *_kind(parts, "")))),
            top_logprobs=tuple(_first_token((choice.get("logprobs") or {}).get("content"))),
        )
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError("the body is JSON, but no chat completion") from error


PARTS = {
    "text": ("text", "text"),
    "output_text": ("text", "text"),
    "refusal": ("refusal", "refusal"),
    "thinking": ("reasoning", "thinking"),
    "reasoning": ("reasoning", "text"),
    "reasoning_text": ("reasoning", "text"),
}
"""Type of a message's part → what it is, and the field that has its text."""


def _parts(content: Any) -> list[tuple[str, str]]:
    """(kind, text) of each part of a message's content, which is a text or a list of typed parts.

    A part of no known type has no kind, and its type in place of a text.
    """
    if not isinstance(content, list):
        if not isinstance(content, str | None):
            raise ValueError(f"the message's content is neither text nor a list of parts, but {type(content).__name__}")
        return [("text", _text(content))]
    found = []
    for part in content:
        kind = str(part.get("type")) if isinstance(part, dict) else "text"
        if kind in PARTS:
            name, field = PARTS[kind]
            found.append((name, _text(part.get(field) if isinstance(part, dict) else part)))
        else:
            found.append(("", writable(kind)))
    return found


def _kind(parts: list[tuple[str, str]], kind: str) -> list[str]:
    return [text for own, text in parts if own == kind]


def _text(value: Any) -> str:
    """A text, also one that is given as a list of parts itself; empty for anything else."""
    if isinstance(value, list):
        texts = [part.get("text") if isinstance(part, dict) else part for part in value]
        value = "".join(text for text in texts if isinstance(text, str))
    return writable(value) if isinstance(value, str) else ""


def _called(message: dict[str, Any]) -> list[str]:
    calls = [message.get("function_call"), *(call.get("function") for call in message.get("tool_calls") or ())]
    return [writable(f"tool {call.get('name')}") for call in calls if call]


def writable(text: str) -> str:
    """A text as UTF-8 can have it: half a surrogate pair (an answer cut within an emoji) becomes a question mark."""
    return text.encode("utf-8", "replace").decode()


def _first_token(content: Any) -> list[tuple[str, float]]:
    """(token, log-probability) of all that an answer's first token could have been, what it was first and once."""
    if not content:
        return []
    (taken, *_), others = _tokens(content[:1]), _tokens(content[0].get("top_logprobs"))
    again = next((n for n, (token, _) in enumerate(others) if token == taken[0]), len(others))
    return [pair for pair in (taken, *others[:again], *others[again + 1 :]) if math.isfinite(pair[1])]


def _tokens(rows: Any) -> list[tuple[str, float]]:
    return [(writable(row["token"]), float(row["logprob"])) for row in rows or ()]


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
