"""Words of a text: one definition for everything that counts or compares them.

A word is what stands between whitespace. Words are compared in Unicode's compatible form (NFKC), case-folded, with
one apostrophe and one hyphen, without invisible characters and without the signs at their edges: `“Wait…”`,
`**wait**`, `WAIT,` and `wait` are one word. A word of signs alone (`—`) is a word that equals no other kind.

Scripts that put no spaces between words (Han, kana, Thai, Lao, Khmer, Burmese, Tibetan and relatives) are counted by
letters: each letter with its marks is a word, and so is each run of other characters between such letters or between
the punctuation of these scripts. `他说wait，等等` has five words.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import NamedTuple

_PIECE = re.compile(r"\S+")
_SIGNS = "".join(character for character in map(chr, range(128)) if not character.isalnum())
_SAME = dict.fromkeys(map(ord, "‘’‛ʼ"), "'") | dict.fromkeys(map(ord, "‐‑"), "-")
_INVISIBLE = re.compile("[\xad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff\U000e0100-\U000e01ef]")

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_BLOCKS = (
    (0x0E00, 0x109F),
    (0x1780, 0x17FF),
    (0x1950, 0x19DF),
    (0x1A20, 0x1AAF),
    (0x3000, 0x30FF),
    (0x31F0, 0x31FF),
    (0xA9E0, 0xA9FF),
    (0xAA60, 0xAADF),
    (0xFF00, 0xFF9F),
)
"""Thai to Burmese, Khmer, Tai, Tai Tham, Japanese and Chinese signs and kana, Burmese and Tai again, other widths."""


class Word(NamedTuple):
    """A word, as it is compared (empty for signs alone), and its characters [start, end) of the text.

    `joined` says that nothing stands between it and the word before.
    """

    text: str
    start: int
    end: int
    joined: bool = False


@lru_cache(maxsize=16)  # several figures of one text are taken in a row
def split_words(text: str) -> tuple[Word, ...]:
    """Words of a text, in order."""
    if text.isascii():
        return tuple(Word(m[0].strip(_SIGNS).lower(), m.start(), m.end()) for m in _PIECE.finditer(text))
    letter_or_sign, parts = _patterns()
    found: list[Word] = []
    for match in _PIECE.finditer(text):
        piece = match[0]
        if piece.isascii() or not letter_or_sign.search(piece):
            found.append(Word(plain(piece), match.start(), match.end()))
        else:
            found += _cut(piece, match.start(), parts) or [Word("", match.start(), match.end())]
    return tuple(found)


def _cut(piece: str, at: int, parts: re.Pattern[str]) -> list[Word]:
    found: list[Word] = []
    for match in parts.finditer(piece):
        if text := plain(match[0]):
            start, end = at + match.start(), at + match.end()
            found.append(Word(text, start, end, bool(found) and found[-1].end == start))
    return found


def fold(text: str) -> str:
    """A text in the form that words are compared in, signs included."""
    if text.isascii():
        return text.lower()
    seen = _INVISIBLE.sub("", text).translate(_SAME)
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", seen).casefold())


def plain(word: str) -> str:
    """A word in the form that words are compared in, without the signs at its edges."""
    folded = fold(word)
    if folded.isascii():
        return folded.strip(_SIGNS)
    kinds = [unicodedata.category(character)[0] for character in folded]
    real = [place for place, kind in enumerate(kinds) if kind in "LN"]
    if not real:
        return ""
    end = real[-1] + 1
    while end < len(kinds) and kinds[end] == "M":  # accents and vowel signs behind the last letter
        end += 1
    return folded[real[0] : end]


def with_a_word(text: str) -> str:
    """A text that a recipe gives to be searched for, as it is.

    Raises:
        ValueError: there is no letter or digit in it, so that it can't be found.
    """
    if not any(word.text for word in split_words(text)):
        raise ValueError(f"{text!r} has no letter or digit in it, so no word can equal it; write a word or a phrase")
    return text


@cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What cuts a piece into several words; and these: a letter with its marks, or a run of other characters."""
    kinds: dict[str, str] = {"L": _HAN, "M": "\uff9e\uff9f", "S": ""}
    for character in _characters():
        kind = unicodedata.category(character)
        if character not in kinds["M"] and (kind == "Nl" or kind[0] in "LMPS"):
            kinds[{"N": "L", "P": "S"}.get(kind[0], kind[0])] += re.escape(character)
    letter = f"[{kinds['L']}][{kinds['M']}]*"
    return re.compile(f"[{kinds['L']}{kinds['S']}]"), re.compile(f"{letter}|[^{kinds['L']}{kinds['S']}]+")


def _characters() -> Iterator[str]:
    """Of the blocks above; of the wide and narrow forms, letters only where they are kana."""
    for first, last in _BLOCKS:
        for character in map(chr, range(first, last + 1)):
            if not ("\uff00" < character < "\uff66" and unicodedata.category(character)[0] in "LN"):
                yield character
