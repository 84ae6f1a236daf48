"""A conversation as a chat template writes it, and where in it the model's turn begins and ends."""

from __future__ import annotations

from collections.abc import Sequence

from steerkit.data.chat_template import ANSWER, ChatTemplate
from steerkit.data.chats import Message
from steerkit.data.template_text import shared
from steerkit.errors import SteerkitError

UNSURE = "so its mask can't be verified"


def conversation(
    template: ChatTemplate, messages: Sequence[Message], response: str, rest: str, before: str, opening: str
) -> tuple[str, int]:
    """The text that begins with the prompt as it is at test and goes on with the response, and where that ends.

    Past turns of templates that open a thought (`<think>`) have none. What closes a turn is then read from a short
    answer's, and the response stands behind the opened thought, as the model would write it.

    Args:
        messages: the prompt's, as the template takes them.
        rest: the response without what `opening` ends with.
        before, opening: the prompt at test in two: the conversation, and what opens the model's turn.

    Raises:
        SteerkitError: the template writes something else.
    """
    start = before + opening
    whole = template.render([*messages, Message("assistant", response)], opened=False)
    if whole.startswith(start):
        return whole, len(start) + _end_of(rest, whole[len(start) :])
    turn = before + opening[: template.header]
    answered = template.render([*messages, Message("assistant", ANSWER)], opened=False)
    if len(turn) == len(start) or not answered.startswith(turn):
        raise SteerkitError(
            "the chat template writes the prompt otherwise when a response follows: it ends the prompt with "
            f"{start[-30:]!r}, and the conversation has {_where_they_part(start, whole)!r} there, {UNSURE}"
        )
    answer = answered[len(turn) :]
    closing = answer[_end_of(ANSWER, answer) :]
    return start + rest + closing, len(start + rest)


def without_opening(response: str, repeated: str) -> str:
    """A response without what the prompt ends with already (`<think>`)."""
    if response.startswith(repeated):
        return response.removeprefix(repeated)
    return response.lstrip().removeprefix(repeated.strip()).lstrip()


def _end_of(response: str, text: str) -> int:
    """Where a response ends in the text that a template writes behind the prompt.

    White space before it is the template's (``[/INST] Yes``); at the response's ends, templates may drop it.

    Raises:
        SteerkitError: the text does not begin with the response.
    """
    if text.startswith(response):
        return len(response)
    lead, stripped = len(text) - len(text.lstrip()), response.strip()
    if not text[lead:].startswith(stripped):
        raise SteerkitError(
            f"the chat template writes {text[:40]!r} where the response is {response[:40]!r}, {UNSURE}; give the "
            "response as the template writes it, or turn thinking off (chat_template_kwargs)"
        )
    return lead + len(stripped)


def _where_they_part(start: str, whole: str) -> str:
    place = shared(start, whole)
    return whole[max(0, place - 10) : place + 30]
