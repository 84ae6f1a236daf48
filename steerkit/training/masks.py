"""Rows to ids and to what of them is learned: the response and the end of the model's turn, nothing else.

Ids are those of the prompt as it is at test, followed by what the model would have to write. Where the response ends
is read from the chat template: it renders the prompt, and the conversation with the response, and the second text must
be the first one and more. What can't be verified is an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from steerkit.data.chat_format import ChatFormat
from steerkit.data.chat_template import ChatTemplate
from steerkit.data.chats import messages_of
from steerkit.errors import InputError, Problem, SteerkitError
from steerkit.training.rows import TrainingRow
from steerkit.training.turns import conversation, without_opening

IGNORED = -100
"""Label of a token that is not learned, as transformers and torch have it."""


@dataclass(frozen=True)
class Encoded:
    """A row as ids.

    Attributes:
        ids: prompt, response, and the end of the turn.
        labels: the same where a token is learned, -100 elsewhere.
        prompt_length: tokens of the prompt.
        cut: whether tokens were left out at the end, for `max_tokens`.
    """

    id: str
    ids: tuple[int, ...]
    labels: tuple[int, ...]
    prompt_length: int
    cut: bool = False

    @property
    def learned(self) -> int:
        """How many tokens are learned."""
        return sum(label != IGNORED for label in self.labels)


def encode_rows(
    rows: Sequence[TrainingRow],
    chats: ChatFormat,
    *,
    max_tokens: int | None = None,
    trailing: bool = False,
    allowed: Sequence[str] = (),
) -> list[Encoded]:
    """Rows as ids, with their masks.

    Args:
        chats: how prompts are formatted, at test too.
        max_tokens: longer rows lose their end.
        trailing: whether what the template writes behind the end of the turn (a line break, say) is learned, too.
        allowed: special tokens that responses may hold.

    Raises:
        InputError: every row without a response, with text that would be read as a turn's end or beginning, whose mask
            can't be verified, or of which no learned token is left; and ids that several rows have.
    """
    problems = [
        Problem(f"row {name!r}", f"is there {count} times; ids are unique")
        for name, count in Counter(row.id for row in rows).items()
        if count > 1
    ]
    found = []
    special = special_texts(chats.tokenizer)
    for row in rows:
        wrong = [*row.problems(), *_turns_in(row, special, allowed)]
        if not wrong:
            try:
                found.append(_encode(row, chats, max_tokens, trailing))
            except SteerkitError as error:
                wrong = [str(error)]
        problems += [Problem(f"row {row.id!r}", text) for text in wrong]
    if problems:
        raise InputError("rows to train on", problems)
    if not rows:
        raise SteerkitError("there are no rows to train on")
    return found


def special_texts(tokenizer: Any) -> dict[str, int]:
    """Text → id of the tokens that stand for no text: ends of turns, roles, padding."""
    found = {token.content: index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return found | dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))


def _turns_in(row: TrainingRow, special: dict[str, int], allowed: Sequence[str]) -> Iterator[str]:
    """What of a row's own texts a model would read as the template's."""
    texts = {"system text": row.system, "response": row.response}
    texts |= {f"message {n} ({m.role})": m.content for n, m in enumerate(messages_of(row.prompt), 1)}
    for where, text in texts.items():
        fine = allowed if where == "response" else ()
        if held := [token for token in special if token in text and token not in fine]:
            yield f"has {', '.join(map(repr, held))} in its {where}, which the model reads as a token of the template"


def _encode(row: TrainingRow, chats: ChatFormat, max_tokens: int | None, trailing: bool) -> Encoded:
    prompt = chats.ids(row.chat)
    ids = _told(row, chats, chats.template, prompt, trailing) if chats.template else _plain(row, chats, prompt)
    if max_tokens is not None and max_tokens <= len(prompt):
        raise SteerkitError(
            f"has a prompt of {len(prompt):,} tokens, so that max_tokens={max_tokens:,} leave nothing to learn"
        )
    labels = [*[IGNORED] * len(prompt), *ids[len(prompt) :]]
    cut = max_tokens is not None and len(ids) > max_tokens
    return Encoded(row.id, tuple(ids[:max_tokens]), tuple(labels[:max_tokens]), len(prompt), cut)


def _told(row: TrainingRow, chats: ChatFormat, template: ChatTemplate, prompt: list[int], trailing: bool) -> list[int]:
    """Ids of prompt and response by the chat template, until the end of the model's turn."""
    before, opening = chats.parts(row.chat)
    for where, text in _own_texts(row):
        if opening.strip() and opening.strip() in text:
            raise SteerkitError(
                f"has {opening.strip()!r} in its {where}, which the template opens the model's turn with"
            )
    start = before + opening
    messages = template.fitted(messages_of(row.chat))
    response = without_opening(row.response, chats.repeated(row.chat, row.response))
    whole, end = conversation(template, messages, row.response, response, before, opening)
    ids, places = _joined(chats, prompt, start, whole)
    special = set(special_texts(chats.tokenizer).values())
    closing = (i for i in range(len(prompt), len(ids)) if places[i][0] >= end and ids[i] in special)
    last = next(closing, None)
    if last is None:
        raise SteerkitError(
            f"the chat template writes {whole[end:]!r} behind the response, no token that ends the turn, so the model "
            "could not learn to stop; use chat: no (the tokenizer's end token is put there), or another template"
        )
    return ids if trailing else ids[: last + 1]


def _own_texts(row: TrainingRow) -> Iterator[tuple[str, str]]:
    yield "system text", row.system
    for message in messages_of(row.prompt):
        yield f"{message.role} text", message.content


def _joined(chats: ChatFormat, prompt: list[int], start: str, whole: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids of `whole` that begin with the prompt's, and each one's characters.

    Where a token reaches over the boundary in the joint text (a line break before, and one behind it), both sides are
    tokenized by themselves: that is what a model reads at test, and the text is the same.

    Raises:
        SteerkitError: the text is another then.
    """
    ids, places = chats.placed(whole)
    if ids[: len(prompt)] == prompt:
        return ids, places
    own = chats.tokenizer(whole[len(start) :], add_special_tokens=False, return_offsets_mapping=True)
    parted = [*prompt, *own["input_ids"]]
    decode = chats.tokenizer.decode
    if decode(parted) != decode(ids):
        raise SteerkitError(
            "the tokenizer makes other tokens of the prompt when a response follows, and the two by themselves are "
            "another text, so where the response begins can't be verified"
        )
    shift = len(start)
    return parted, [(0, 0)] * len(prompt) + [(a + shift, b + shift) for a, b in own["offset_mapping"]]


def _plain(row: TrainingRow, chats: ChatFormat, prompt: list[int]) -> list[int]:
    """Ids of prompt and response as plain text, and the tokenizer's end token."""
    end = chats.tokenizer.eos_token_id
    if end is None:
        raise SteerkitError(
            "the tokenizer has neither a chat template nor an end token, so the model can't learn to stop"
        )
    if prompt[-1:] == [end]:
        raise SteerkitError("the tokenizer puts its end token behind every prompt; no response can follow")
    start = "".join(chats.parts(row.chat))
    ids, _ = _joined(chats, prompt, start, start + row.response)
    return [*ids, end]
