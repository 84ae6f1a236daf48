"""What each token adds to a decoded text: a fast tokenizer's decoder, replayed token by token.

The `tokenizers` library decodes a list of pieces, at first one a token, by steps: some change every piece, others
(byte-level, byte fallback, fuse) join pieces. The steps are read from the tokenizer's own decoder and done here with
a note of which token each character came from, so nothing depends on the model's name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from steerkit.data.utf8 import bytes_of, characters

Spec = dict[str, Any]

BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
"""A byte token of SentencePiece vocabularies."""


class UnknownDecoderError(Exception):
    """A decoder, or a use of one, that can't be replayed."""


@dataclass
class Pieces:
    """Tokens on their way to text.

    Attributes:
        texts: what each token adds; the token that holds a character's first byte adds the character.
        continues: whether the token's first byte lies inside a character, which a token before it added.
        bounds: index of the first token of each piece.
    """

    texts: list[str]
    continues: list[bool]
    bounds: list[int]

    @classmethod
    def of(cls, tokens: Sequence[str]) -> Pieces:
        return cls(list(tokens), [False] * len(tokens), list(range(len(tokens))))

    @property
    def single(self) -> bool:
        """Whether each piece is one token."""
        return len(self.bounds) == len(self.texts)

    def each(self, change: Callable[[str], str]) -> None:
        """Change the text of every token; equal ones are changed once."""
        if not self.single:
            raise UnknownDecoderError("changes pieces of several tokens")
        known = {text: change(text) for text in set(self.texts)}
        self.texts = [known[text] for text in self.texts]

    def put(self, first: int, chunks: Sequence[bytes]) -> None:
        """Give the tokens from `first` on the UTF-8 text of their bytes."""
        text, begins, continues = characters(chunks)
        last = first + len(chunks)
        self.texts[first:last] = [text[a:b] for a, b in pairwise([*begins, len(text)])]
        self.continues[first:last] = continues

    def replace(self, first: int, last: int, old: str, new: str) -> None:
        """Replace a string in the piece of tokens [first, last)."""
        if last - first == 1:
            self.texts[first] = self.texts[first].replace(old, new)
            return
        whole = "".join(self.texts[first:last])
        if old not in whole:
            return
        changed = [text.replace(old, new) for text in self.texts[first:last]]
        if "".join(changed) != whole.replace(old, new) or (len(new) > 1 and any(self.continues[first:last])):
            raise UnknownDecoderError("replaces what several tokens hold")
        if not new:
            self._forget(first, last, old)
        self.texts[first:last] = changed

    def _forget(self, first: int, last: int, taken: str) -> None:
        """Tokens that continue a character which is taken away continue none."""
        holder = ""
        for index in range(first, last):
            holder = self.texts[index] or holder
            if self.continues[index] and holder.endswith(taken):
                self.continues[index] = False


def replayed(tokenizer: Any, tokens: Sequence[str]) -> Pieces | None:
    """What each token adds to the text that the tokenizer's decoder makes of them; None where that is not known."""
    core = getattr(tokenizer, "backend_tokenizer", None)
    if core is None:
        return None
    pieces = Pieces.of(tokens)
    try:
        for spec in _specs(core.decoder):
            STEPS[spec["type"]](pieces, spec)
    except (UnknownDecoderError, KeyError):
        return None
    return pieces


def _specs(decoder: Any) -> list[Spec]:
    """The decoder's steps, in order, as the library writes them to ``tokenizer.json``."""
    if decoder is None:
        return [{"type": "Join"}]
    try:
        spec = json.loads(decoder.__getstate__())
    except Exception as error:  # a decoder written in Python; the library raises a bare Exception
        raise UnknownDecoderError("can't be read") from error
    return _flat(spec)


def _flat(spec: Spec) -> list[Spec]:
    if spec.get("type") != "Sequence":
        return [spec]
    return [step for inner in spec["decoders"] for step in _flat(inner)]


def _join(pieces: Pieces, spec: Spec) -> None:
    """Tokenizers without a decoder put a space between tokens; it is added by the later one."""
    pieces.texts[1:] = [f" {text}" for text in pieces.texts[1:]]


def _fuse(pieces: Pieces, spec: Spec) -> None:
    pieces.bounds = pieces.bounds[:1]


def _byte_level(pieces: Pieces, spec: Spec) -> None:
    if not pieces.single:
        raise UnknownDecoderError("reads bytes of pieces of several tokens")
    known = {text: bytes_of(text) for text in set(pieces.texts)}
    pieces.put(0, [known[text] for text in pieces.texts])
    _fuse(pieces, spec)


def _byte_fallback(pieces: Pieces, spec: Spec) -> None:
    """Byte tokens in a row are one piece where they are UTF-8, else a U+FFFD each."""
    if not pieces.single:
        raise UnknownDecoderError("reads bytes of pieces of several tokens")
    run: list[bytes] = []
    bounds: list[int] = []
    for index, text in enumerate([*pieces.texts, ""]):
        byte = BYTE.fullmatch(text) if text.startswith("<0x") else None
        if byte:
            run.append(bytes.fromhex(byte[1]))
            continue
        if run:
            bounds += _byte_run(pieces, index - len(run), run)
            run = []
        bounds.append(index)
    pieces.bounds = bounds[:-1]


def _byte_run(pieces: Pieces, first: int, run: Sequence[bytes]) -> list[int]:
    try:
        b"".join(run).decode()
    except UnicodeDecodeError:
        pieces.texts[first : first + len(run)] = ["\ufffd"] * len(run)
        return list(range(first, first + len(run)))
    pieces.put(first, run)
    return [first]


def _strip(pieces: Pieces, spec: Spec) -> None:
    """Take at most `start` characters off the beginning of each piece, and `stop` off its end."""
    content = spec["content"]
    if len(content.encode()) > 1 and any(pieces.continues):
        raise UnknownDecoderError("strips what several tokens hold")
    for first, last in pairwise([*pieces.bounds, len(pieces.texts)]):
        for order, count in ((range(first, last), spec["start"]), (range(last - 1, first - 1, -1), spec["stop"])):
            left = count
            for index in order:
                text = pieces.texts[index]
                kept = text.lstrip(content) if order.step > 0 else text.rstrip(content)
                cut = min(len(text) - len(kept), left)
                pieces.texts[index] = text[cut:] if order.step > 0 else text[: len(text) - cut]
                left -= cut
                if pieces.texts[index] or not left:
                    break


def _replace(pieces: Pieces, spec: Spec) -> None:
    pattern, content = spec["pattern"], spec["content"]
    if "String" not in pattern:
        from tokenizers import Regex, decoders

        step = decoders.Replace(Regex(pattern["Regex"]), content)
        pieces.each(lambda text: str(step.decode([text])))
    elif pieces.single:
        pieces.each(lambda text: text.replace(pattern["String"], content))
    else:
        for first, last in pairwise([*pieces.bounds, len(pieces.texts)]):
            pieces.replace(first, last, pattern["String"], content)


def _metaspace(pieces: Pieces, spec: Spec) -> None:
    """The mark becomes a space; in the first piece it is taken out where encoding puts one there."""
    prepends = spec.get("prepend_scheme", "always") != "never"
    for index, (first, last) in enumerate(pairwise([*pieces.bounds, len(pieces.texts)])):
        pieces.replace(first, last, spec["replacement"], "" if prepends and not index else " ")


def _word_piece(pieces: Pieces, spec: Spec) -> None:
    """A word brings the space before it; the first piece has none."""
    from tokenizers import decoders

    step = decoders.WordPiece(prefix=spec["prefix"], cleanup=spec["cleanup"])
    begin = [str(step.decode(pieces.texts[:1]))]
    pieces.each(lambda text: str(step.decode(["", text])))
    pieces.texts[:1] = begin


def _bpe(pieces: Pieces, spec: Spec) -> None:
    """A word's end becomes the space after it; the last piece has none."""
    end = [text.replace(spec["suffix"], "") for text in pieces.texts[-1:]]
    pieces.each(lambda text: text.replace(spec["suffix"], " "))
    pieces.texts[-1:] = end


STEPS: dict[str, Callable[[Pieces, Spec], None]] = {
    "Join": _join,
    "Fuse": _fuse,
    "ByteLevel": _byte_level,
    "ByteFallback": _byte_fallback,
    "Strip": _strip,
    "Replace": _replace,
    "Metaspace": _metaspace,
    "WordPiece": _word_piece,
    "BPEDecoder": _bpe,
}
"""Steps by the name that ``tokenizer.json`` gives them."""
