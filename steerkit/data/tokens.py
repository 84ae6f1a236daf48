"""Between text and ids: traces, and the character at which each token begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from steerkit.data.chat_format import ChatFormat
from steerkit.data.chats import split_response
from steerkit.data.placing import Decoded, decode_in_place, place_in_text
from steerkit.data.placing import decode as decode
from steerkit.data.trace import Prompt, Trace


def decode_with_starts(tokenizer: Any, ids: Sequence[int]) -> tuple[str, tuple[int, ...]]:
    """Text of ids, and the character at which each token starts in it (as `Decoded` defines it)."""
    found = decode_in_place(tokenizer, ids)
    return found.text, found.starts


def split_answer(text: str, marker: str) -> tuple[str, str]:
    """The reasoning before the end-of-thinking marker, and the rest, marker included."""
    place = text.find(marker) if marker else -1
    return (text, "") if place < 0 else (text[:place], text[place:])


def make_trace(
    tokenizer: Any, prompt: Prompt, prompt_ids: Sequence[int], ids: Sequence[int], finished: bool, marker: str
) -> Trace:
    """A Trace of generated ids."""
    return _trace(prompt, prompt_ids, ids, decode_in_place(tokenizer, ids), marker, finished)


def encode_trace(tokenizer: Any, prompt: Prompt, text: str, marker: str, chats: ChatFormat | None = None) -> Trace:
    """A Trace of text whose generated ids are not known: teacher forcing on what the tokenizer makes of it.

    It counts as finished when its reasoning ends. What the prompt ends with and the text begins with again
    (``<think>``) is left out of the prompt, so that the text and all places in it stay as they are.

    Args:
        chats: how the prompt is formatted; by the tokenizer's own template, if it has one, when left out.

    Raises:
        SteerkitError: the prompt can't be formatted, or the text begins with it.
    """
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    placed = place_in_text(tokenizer, text, ids)
    prompt_ids = (chats or ChatFormat(tokenizer)).ids_before(prompt.prompt, text)
    return _trace(prompt, prompt_ids, ids, placed, marker, bool(marker) and marker in text)


def given_trace(tokenizer: Any, prompt: Prompt, marker: str, chats: ChatFormat | None = None) -> Trace:
    """The Trace that a prompt brings along: its last assistant message, or an empty one.

    Raises:
        SteerkitError: as `encode_trace`.
    """
    asked, response = split_response(prompt.prompt)
    return encode_trace(tokenizer, replace(prompt, prompt=asked), response, marker, chats)


def placed_again(tokenizer: Any, trace: Trace) -> Trace | None:
    """A trace of a file with the places that its ids have here; None where its ids are not those of its text."""
    text = trace.text + trace.answer_text
    if min(trace.ids, default=0) < 0:
        return None
    found = decode_in_place(tokenizer, trace.ids)
    if found.text != text:
        if list(trace.ids) != list(tokenizer(text, add_special_tokens=False)["input_ids"]):
            return None
        found = place_in_text(tokenizer, text, trace.ids)
    return replace(trace, starts=found.starts, continues=found.continues)


def plain_trace(prompt: Prompt, text: str, marker: str) -> Trace:
    """A Trace of text that no tokenizer has seen yet; a run encodes it with its own."""
    return _trace(prompt, (), (), Decoded(text, (), ()), marker, bool(marker) and marker in text)


def _trace(
    prompt: Prompt, prompt_ids: Sequence[int], ids: Sequence[int], placed: Decoded, marker: str, finished: bool
) -> Trace:
    thinking, answer = split_answer(placed.text, marker)
    return Trace(
        id=prompt.id,
        prompt_id=prompt.id,
        prompt=prompt.prompt,
        text=thinking,
        answer_text=answer,
        prompt_ids=tuple(prompt_ids),
        ids=tuple(ids),
        starts=placed.starts,
        continues=placed.continues,
        finished=finished,
    )
