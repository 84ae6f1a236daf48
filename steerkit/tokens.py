"""Between text and ids: formatted prompts, and the character at which each token begins."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Literal

from steerkit.errors import SteerkitError
from steerkit.trace import Prompt, Trace

LOOK_BACK = 8  # tokens decoded again with each new one; longer than any multi-byte character

Chat = Literal["auto", "yes", "no"]


def format_prompt(tokenizer: Any, text: str, chat: Chat = "auto") -> list[int]:
    """Ids of a prompt: through the chat template (ready for the answer), or as plain text.

    A template's text already holds the special tokens, so none are added to it.
    """
    if chat == "yes" and not tokenizer.chat_template:
        raise SteerkitError("chat: yes, but the tokenizer has no chat template; use chat: no or auto")
    if chat != "no" and tokenizer.chat_template:
        formatted = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
        )
        return list(tokenizer(formatted, add_special_tokens=False)["input_ids"])
    return list(tokenizer(text)["input_ids"])


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """Text of ids, special tokens and spaces kept as they are."""
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def decode_with_starts(tokenizer: Any, ids: Sequence[int]) -> tuple[str, tuple[int, ...]]:
    """Text of ids, and the character at which each token begins in it.

    Tokens are decoded with those before them (a leading space, or half a character, depends on them).
    """
    text = decode(tokenizer, ids)
    if not ids:
        return text, ()
    pieces = tokenizer.batch_decode([[i] for i in ids], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if "".join(pieces) == text:
        return text, (0, *accumulate(len(piece) for piece in pieces[:-1]))
    starts, at = [], 0
    whole = [0]  # places between tokens that are places between characters, oldest first
    for index in range(len(ids)):
        starts.append(at)
        before = decode(tokenizer, ids[whole[0] : index])
        now = decode(tokenizer, ids[whole[0] : index + 1])
        if not now.endswith("\ufffd"):  # half a character: its text comes with the next token
            at += max(len(now) - len(before.rstrip("\ufffd")), 0)  # some decoders take back what they had said
            whole.append(index + 1)
            while len(whole) > 1 and whole[1] <= index + 1 - LOOK_BACK:
                del whole[0]
    return text, tuple(min(start, len(text)) for start in starts)


def split_answer(text: str, marker: str) -> tuple[str, str]:
    """The reasoning before the end-of-thinking marker, and the rest, marker included."""
    place = text.find(marker) if marker else -1
    return (text, "") if place < 0 else (text[:place], text[place:])


def make_trace(
    tokenizer: Any, prompt: Prompt, prompt_ids: Sequence[int], ids: Sequence[int], finished: bool, marker: str
) -> Trace:
    """A Trace of generated ids."""
    text, starts = decode_with_starts(tokenizer, ids)
    return _trace(prompt, prompt_ids, ids, text, starts, marker, finished)


def encode_trace(tokenizer: Any, prompt: Prompt, text: str, marker: str, chat: Chat = "auto") -> Trace:
    """A Trace of text whose generated ids are not known: teacher forcing on what the tokenizer makes of it.

    It counts as finished when its reasoning ends.
    """
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    starts = [start for start, _ in found["offset_mapping"]]
    prompt_ids = format_prompt(tokenizer, prompt.prompt, chat)
    return _trace(prompt, prompt_ids, found["input_ids"], text, starts, marker, bool(marker) and marker in text)


def plain_trace(prompt: Prompt, text: str, marker: str) -> Trace:
    """A Trace of text that no tokenizer has seen yet; a run encodes it with its own."""
    return _trace(prompt, (), (), text, (), marker, bool(marker) and marker in text)


def _trace(
    prompt: Prompt, prompt_ids: Sequence[int], ids: Sequence[int], text: str, starts: Sequence[int], marker: str,
    finished: bool,
) -> Trace:  # fmt: skip
    thinking, answer = split_answer(text, marker)
    return Trace(
        id=prompt.id, prompt_id=prompt.id, prompt=prompt.prompt, text=thinking, answer_text=answer,
        prompt_ids=tuple(prompt_ids), ids=tuple(ids), starts=tuple(starts), finished=finished,
    )  # fmt: skip
