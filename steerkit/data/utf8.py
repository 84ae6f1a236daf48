"""Bytes of tokens, and the characters that they make up."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate

UTF8 = re.compile(
    rb"[\xc2-\xdf][\x80-\xbf]?|\xe0(?:[\xa0-\xbf][\x80-\xbf]?)?|[\xe1-\xec\xee\xef][\x80-\xbf]{0,2}"
    rb"|\xed(?:[\x80-\x9f][\x80-\xbf]?)?|\xf0(?:[\x90-\xbf][\x80-\xbf]{0,2})?|[\xf1-\xf3][\x80-\xbf]{0,3}"
    rb"|\xf4(?:[\x80-\x8f][\x80-\xbf]{0,2})?|[\x80-\xff]"
)
"""A character outside ASCII, or the longest beginning of one: what becomes a single U+FFFD where it is cut off (the
Unicode Standard's "maximal subpart", which both Rust and Python follow)."""


def characters(chunks: Sequence[bytes]) -> tuple[str, list[int], list[bool]]:
    """UTF-8 text of joined bytes (U+FFFD for what is none), how many characters begin before each chunk, and
    whether the chunk begins inside one."""
    data = b"".join(chunks)
    text = data.decode("utf-8", "replace")
    offsets = [0, *accumulate(map(len, chunks))][:-1]
    if len(text) == len(data):
        return text, offsets, [False] * len(chunks)
    begun = [1] * len(data)  # 0 for bytes that do not begin a character
    for found in UTF8.finditer(data):
        for inner in range(found.start() + 1, found.end()):
            begun[inner] = 0
    before = [0, *accumulate(begun)]
    begun.append(1)
    return text, [before[offset] for offset in offsets], [not begun[offset] for offset in offsets]


def _alphabet() -> dict[int, str]:
    """Characters that stand for bytes in byte-level vocabularies (GPT-2's table), as characters of these codes.

    The others under 256 stand for none: they are mapped to a character that Latin-1 lacks.
    """
    shown = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    stands = {byte: chr(byte) for byte in shown} | {256 + place: chr(byte) for place, byte in enumerate(hidden)}
    return dict.fromkeys(hidden, "\u0100") | stands


ALPHABET = _alphabet()


def bytes_of(token: str) -> bytes:
    """Bytes of a byte-level token; one that is not written in that alphabet (an added token) stands for itself."""
    try:
        return token.translate(ALPHABET).encode("latin-1")
    except UnicodeEncodeError:
        return token.encode()
