"""Where tokens start in a text: exact for any ids, and for texts that the tokenizer writes otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any

from steerkit.data.decoders import replayed

LOOK_BACK = 8  # tokens decoded again with each new one; longer than any multi-byte character


@dataclass(frozen=True, slots=True)
class Decoded:
    """A text and where its tokens begin in it.

    A token starts at the character that holds its first byte. Where that byte is not the character's first (byte-level
    and byte-fallback tokens split characters), the token continues a character that a token before it began, and
    starts at that character. What a decoder adds before a token (the space between words) belongs to that token, and
    what it takes away belongs to none. A token without text of its own starts where the next text is. Bytes that are
    not UTF-8 are the U+FFFD that they are decoded to.

    Example: " √2" in GPT-2's vocabulary is the tokens (20 E2 88) (9A) (32). The first has the space and the beginning
    of √, the second its end: `starts` is (0, 1, 2) and `continues` is (1,).

    Attributes:
        text: the decoded text.
        starts: character at which each token starts, len(ids), never falling.
        continues: indices of the tokens that continue a character.
    """

    text: str
    starts: tuple[int, ...]
    continues: tuple[int, ...]


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """Text of ids, special tokens and spaces kept as they are."""
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def decode_in_place(tokenizer: Any, ids: Sequence[int]) -> Decoded:
    """Text of ids and the places of its tokens; the work grows with the text's length.

    Exact for the decoders of the `tokenizers` library (see `steerkit.data.decoders`). Tokens of a decoder that can't be
    replayed (CTC, one written in Python, a tokenizer that is not a fast one) are placed by decoding each with a few
    before it; there, halves of a U+FFFD that the text truly holds count as whole.
    """
    text = decode(tokenizer, ids)
    tokens = tokenizer.convert_ids_to_tokens(list(ids)) if ids and hasattr(tokenizer, "backend_tokenizer") else []
    known = [token for token in tokens if token is not None]  # ids that the vocabulary lacks are left out of the text
    pieces = replayed(tokenizer, known) if known else None
    if pieces is None or "".join(pieces.texts) != text:
        return _decode_by_windows(tokenizer, ids, text)
    ends = [0, *accumulate(map(len, pieces.texts))]
    places = [end - inside for end, inside in zip(ends, pieces.continues, strict=False)]
    if len(known) == len(tokens):
        return Decoded(text, tuple(places), tuple(i for i, inside in enumerate(pieces.continues) if inside))
    before = [0, *accumulate(token is not None for token in tokens)][:-1]  # known tokens before each
    places, continues = [*places, len(text)], [*pieces.continues, False]
    return Decoded(text, tuple(places[n] for n in before), tuple(i for i, n in enumerate(before) if continues[n]))


def _decode_by_windows(tokenizer: Any, ids: Sequence[int], text: str) -> Decoded:
    """Places by what each token adds when it is decoded with a few before it."""
    starts: list[int] = []
    continues: list[int] = []
    whole = [0]  # places between tokens that are places between characters, oldest first
    at = waiting = 0
    for index in range(len(ids)):
        starts.append(min(at, len(text)))
        if waiting:
            continues.append(index)
        before = decode(tokenizer, ids[whole[0] : index])
        now = decode(tokenizer, ids[whole[0] : index + 1])
        begin = at - (len(before) - waiting)  # where the window's text begins
        waiting = _unfinished(now, text[begin : begin + len(now)])
        at = max(begin + len(now) - waiting, at)  # some decoders take back what they had said
        if not waiting:
            whole.append(index + 1)
            while len(whole) > 1 and whole[1] <= index + 1 - LOOK_BACK:
                del whole[0]
    return Decoded(text, tuple(starts), tuple(continues))


def _unfinished(now: str, text: str) -> int:
    """How many U+FFFD at the end stand for a character that later tokens finish."""
    count = 0
    while count < len(now) and now[-1 - count] == "\ufffd" and text[len(now) - 1 - count :][:1] != "\ufffd":
        count += 1
    return count


def place_in_text(tokenizer: Any, text: str, ids: Sequence[int]) -> Decoded:
    """Places, in a text, of the tokens that the tokenizer makes of it.

    Where the tokens decode to another text (normalized, lower case, with a space put before it), the tokenizer's own
    offsets say where in the given one they come from.
    """
    found = decode_in_place(tokenizer, ids)
    if found.text == text:
        return found
    if found.text.strip() == text.strip():
        moved = _indent(text) - _indent(found.text)
        starts = tuple(min(max(start + moved, 0), len(text)) for start in found.starts)
        return Decoded(text, starts, found.continues)
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return _by_offsets(text, found, offsets)


def _by_offsets(text: str, found: Decoded, offsets: Sequence[tuple[int, int]]) -> Decoded:
    """Places by a tokenizer's offsets, put right where these are of another kind than starts.

    Spaces that offsets leave out before a word belong to the word's token. Byte tokens may all have the offsets of
    the run of characters that they make up: they are told apart by what they decode to.
    """
    starts: list[int] = []
    continues: list[int] = []
    end = 0  # of the characters that tokens have held
    own, inside = [*found.starts, len(found.text)], set(found.continues)
    for (first, last), group in groupby(range(len(offsets)), key=lambda index: offsets[index]):
        run = list(group)
        a, b = own[run[0]], own[run[-1] + 1]
        shares = bool(starts) and first < end
        spaces = _indent(found.text[a:b]) - _indent(text[first:last])
        while spaces > 0 and first > end and text[first - 1].isspace():
            first, spaces = first - 1, spaces - 1
        apart = found.text[a:b] == text[first:last]
        for index in run:
            if index in inside or (not apart and (own[index] > a or shares)):
                continues.append(index)
            starts.append(first + own[index] - a if apart else first)
        end = max(last, end)
    return Decoded(text, tuple(accumulate(starts, max)), tuple(continues))


def _indent(text: str) -> int:
    """Whitespace characters before the first other one."""
    return len(text) - len(text.lstrip())


def token_texts(tokenizer: Any) -> list[str]:
    """Text of every id of the vocabulary as it stands within a text: with its leading space, which some decoders take
    off a text's beginning. Part of a character is U+FFFD."""
    size = len(tokenizer)
    letters = [i for token, i in tokenizer.get_vocab().items() if token.isascii() and token.isalnum() and i < size]
    if not letters:
        found: list[str] = tokenizer.batch_decode([[i] for i in range(size)], clean_up_tokenization_spaces=False)
        return found
    anchor = min(letters)  # before each, so that no token begins the text and no two of them make up a character
    ids = [i for token in range(size) for i in (anchor, token)]
    decoded = decode_in_place(tokenizer, ids)
    places = [*decoded.starts, len(decoded.text)]
    return [decoded.text[places[at] : places[at + 1]] for at in range(1, len(ids), 2)]
