"""Where tokens start: twelve kinds of fast tokenizers against their own offsets and against slow oracles.

The oracles: `by_cuts` decodes both sides of every cut (only a cut between characters leaves the text as it was),
`by_holders` lists the tokens that hold each character, `by_prefixes` and `by_suffixes` decode every beginning or end.
None knows anything of `steerkit.data.decoders`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import pytest
from oracles import longest_common_prefix
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from vocabularies import ALL, ALPHABET, BYTES, SYMBOLS, gpt2, llama2, random_texts, tiktoken

from steerkit.data.placing import Decoded, decode, decode_in_place
from steerkit.data.tokens import decode_with_starts
from steerkit.data.utf8 import characters

pytest.importorskip("hypothesis", reason="needs hypothesis (pip install 'steerkit-hf[dev]')")
from hypothesis import given, settings
from hypothesis import strategies as st

Oracle = Callable[[Any, Sequence[int]], list[int]]
Held = tuple[str, list[int]]
TEXTS = random_texts(2000)
PARTS = ["é".encode(), b"\xe7\xad", b"\x89", "🤔".encode(), b"\xf0\x9f\xa4", b"\xed\xa0\x80", b"\xf4\x90", b"a"]
BUDGET = settings(max_examples=60, deadline=None, derandomize=True, database=None)


def by_cuts(tokenizer: Any, ids: Sequence[int]) -> list[int]:
    """A cut inside a character leaves at least one U+FFFD more; the left side's last stands for that character."""
    text, found = decode(tokenizer, ids), []
    for k in range(len(ids)):
        left, right = decode(tokenizer, ids[:k]), decode(tokenizer, ids[k:])
        found.append(len(left) if left + right == text else len(left) - 1)
    return found


def by_prefixes(tokenizer: Any, ids: Sequence[int]) -> list[int]:
    text = decode(tokenizer, ids)
    return [longest_common_prefix(decode(tokenizer, ids[:k]), text) for k in range(len(ids))]


def by_suffixes(tokenizer: Any, ids: Sequence[int]) -> list[int]:
    text = decode(tokenizer, ids)
    return [len(text) - len(decode(tokenizer, ids[k:])) for k in range(len(ids))]


def by_holders(decoder: str) -> Oracle:
    """Every character of the text with the tokens that hold its bytes; a token starts at the first that it holds.

    Byte tokens in a row are their UTF-8 text, or a U+FFFD each where they have none.

    Args:
        decoder: "strip" (marks of tokens become spaces, one at the beginning is taken off), "fuse" (none is), or
            "metaspace" (marks are replaced after bytes are put together; the first piece's are taken out).
    """

    def oracle(tokenizer: Any, ids: Sequence[int]) -> list[int]:
        tokens = {k: token for k, token in enumerate(tokenizer.convert_ids_to_tokens(list(ids))) if token is not None}
        pieces: list[list[Held]] = []
        for is_byte, group in groupby(tokens, key=lambda k: tokens[k] in BYTES):
            run = list(group)
            if is_byte:
                pieces += of_bytes(run, [BYTES.index(tokens[k]) for k in run])
            else:
                plain = {k: tokens[k] if decoder == "metaspace" else tokens[k].replace("▁", " ") for k in run}
                pieces += [[(character, [k]) for character in plain[k]] for k in run]
        if decoder == "metaspace":
            pieces[:1] = [[held for held in piece if held[0] != "▁"] for piece in pieces[:1]]
            pieces = [[(" " if c == "▁" else c, holders) for c, holders in piece] for piece in pieces]
        held = [each for piece in pieces for each in piece]
        if decoder == "strip" and held and held[0][0] == " ":
            del held[0]
        assert "".join(c for c, _ in held) == decode(tokenizer, ids)
        return [next((at for at, (_, own) in enumerate(held) if own[-1] >= k), len(held)) for k in range(len(ids))]

    return oracle


def of_bytes(run: list[int], values: list[int]) -> list[list[Held]]:
    """The pieces that a run of byte tokens makes."""
    try:
        text = bytes(values).decode()
    except UnicodeDecodeError:
        return [[("\ufffd", [k])] for k in run]
    found: list[Held] = []
    at = 0
    for character in text:
        size = len(character.encode())
        found.append((character, run[at : at + size]))
        at += size
    return [found]


ORACLES: dict[str, Oracle] = {
    "gpt2": by_cuts,
    "llama3": by_cuts,
    "tiktoken": by_cuts,
    "added": by_cuts,
    "characters": by_cuts,
    "llama2": by_holders("strip"),
    "gemma": by_holders("fuse"),
    "unigram-bytes": by_holders("metaspace"),
    "unigram": by_prefixes,
    "word-piece": by_prefixes,
    "word-level": by_prefixes,
    "end-of-word": by_suffixes,
}


def differing(name: str, ids: Sequence[int]) -> int:
    found, expected = decode_with_starts(ALL[name](), ids)[1], ORACLES[name](ALL[name](), ids)
    return sum(a != b for a, b in zip(found, expected, strict=True))


def test_every_kind_has_an_oracle() -> None:
    assert ORACLES.keys() == ALL.keys() and len(ALL) >= 8


@pytest.mark.parametrize("name", ALL)
def test_starts_on_random_texts_equal_the_oracle(name: str) -> None:
    tokenizer = ALL[name]()
    for text in TEXTS[:150]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert differing(name, ids) == 0, text


@pytest.mark.parametrize("name", [name for name in ALL if name not in ("word-piece", "word-level", "end-of-word")])
def test_starts_on_two_thousand_texts_equal_the_tokenizers_offsets(name: str) -> None:
    """On every text that the tokenizer gives back.

    Two kinds of offsets are no starts: `llama3`'s leave out the spaces before words, and a Unigram model's byte tokens
    all have the offsets of the whole run of characters that it does not know.
    """
    tokenizer = ALL[name]()
    compared = wrong = 0
    for text in TEXTS:
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        found = decode_in_place(tokenizer, encoded["input_ids"])
        if found.text != text:
            continue
        compared += len(found.starts)
        for start, (first, last) in zip(found.starts, encoded["offset_mapping"], strict=True):
            spaces = name == "llama3" and text[start:first] == " " * (first - start)
            in_run = name == "unigram-bytes" and first <= start < last
            wrong += start != first and not spaces and not in_run
    assert wrong == 0
    assert compared > 500


@pytest.mark.parametrize("name", ALL)
def test_starts_of_random_ids_equal_the_oracle(name: str) -> None:
    """Any ids: halves of characters, bytes that are no UTF-8, specials midway, ids that the vocabulary lacks."""

    @BUDGET
    @given(st.lists(st.integers(0, len(ALL[name]()) + 2), max_size=24))
    def check(ids: list[int]) -> None:
        assert differing(name, ids) == 0

    check()


def byte_letters() -> list[str]:
    """The letter of each byte in byte-level vocabularies, as GPT-2's code has it."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return [chr(byte) if byte in shown else chr(256 + hidden.index(byte)) for byte in range(256)]


@pytest.mark.parametrize("name", ["gpt2", "added", "llama2", "gemma", "unigram-bytes"])
def test_starts_of_random_bytes_equal_the_oracle(name: str) -> None:
    """Nearly UTF-8, a token a byte: some bytes are lost, put in or changed."""
    tokenizer = ALL[name]()
    spelled = BYTES if name in ("llama2", "gemma", "unigram-bytes") else byte_letters()
    draw = random.Random(name)
    for _ in range(60):
        data = bytearray("".join(draw.choices("a √等🤔é▁\ufffd\x00", k=8)).encode())
        for _ in range(draw.randint(0, 2)):
            at = draw.randrange(len(data))
            data[at : at + draw.randint(0, 1)] = bytes(draw.choices(range(256), k=draw.randint(0, 1)))
        ids = tokenizer.convert_tokens_to_ids([spelled[byte] for byte in data])
        assert differing(name, ids) == 0, bytes(data)


def test_characters_of_bytes_cut_anywhere() -> None:
    """Against Python's decoder on both sides of each cut."""

    @settings(BUDGET, max_examples=150)
    @given(st.lists(st.binary(max_size=3) | st.sampled_from(PARTS), max_size=8))
    def check(chunks: list[bytes]) -> None:
        whole = b"".join(chunks).decode("utf-8", "replace")
        text, begins, continues = characters(chunks)
        assert text == whole
        for k, (begun, inside) in enumerate(zip(begins, continues, strict=True)):
            left, right = (b"".join(part).decode("utf-8", "replace") for part in (chunks[:k], chunks[k:]))
            assert begun == len(left)
            assert inside == (left + right != whole)

    check()


def test_every_cut_inside_a_character_is_known() -> None:
    """`continues` of byte-level tokens: both sides of the cut before them do not give the text."""
    tokenizer, seen = tiktoken(), 0
    for text in TEXTS[:100]:
        ids = tokenizer(text)["input_ids"]
        found = decode_in_place(tokenizer, ids)
        inside = [k for k in range(len(ids)) if decode(tokenizer, ids[:k]) + decode(tokenizer, ids[k:]) != text]
        assert list(found.continues) == inside
        seen += len(inside)
    assert seen > 100


def test_byte_level_tokens_that_end_in_half_a_character() -> None:
    """The vocabularies of GPT-2, Llama 3, Qwen and SmolLM2 have such tokens, and so has one that stops after " √"'s
    first merges."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(initial_alphabet=ALPHABET, vocab_size=262, show_progress=False)
    core.train_from_iterator([SYMBOLS], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core)
    assert SYMBOLS == "so √2 ≤ x ∈ S 🤔, 等等 naïve 👩\u200d👩\u200d👧 ✓ ok"
    encoded = tokenizer(SYMBOLS, return_offsets_mapping=True)
    assert "Ġâ" in encoded.tokens() and "ĠâĪļ" not in encoded.tokens()
    text, starts = decode_with_starts(tokenizer, encoded["input_ids"])
    assert text == SYMBOLS
    assert list(starts) == [start for start, _ in encoded["offset_mapping"]]
    root = tokenizer.convert_tokens_to_ids(["Ġâ", "Ī", "ļ", "2"])
    assert decode_in_place(tokenizer, root) == Decoded(" √2", (0, 1, 1, 2), (1, 2))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_byte_fallback_characters_shift_nothing_behind_them(count: int) -> None:
    tokens = ["▁", "a", *["<0xE7>", "<0xAD>", "<0x89>"] * count, "▁", "W"]
    core = Tokenizer(models.BPE({t: i for i, t in enumerate(dict.fromkeys(tokens))}, [], byte_fallback=True))
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core)
    text, starts = decode_with_starts(tokenizer, tokenizer.convert_tokens_to_ids(tokens))
    assert text == "a" + "等" * count + " W"
    assert list(starts) == [0, 0, *(1 + n for n in range(count) for _ in range(3)), count + 1, count + 2]
    assert text[starts[-1] :] == "W"


def with_decoder(decoder: Any) -> PreTrainedTokenizerFast:
    """GPT-2's kind of vocabulary under another decoder."""
    core = Tokenizer.from_str(gpt2().backend_tokenizer.to_str())
    core.decoder = decoder
    return PreTrainedTokenizerFast(tokenizer_object=core)


DECODERS: dict[str, tuple[Callable[[], Any], Oracle]] = {
    "pattern": (lambda: decoders.Replace(Regex("Ġ+"), " "), by_prefixes),
    "nested": (lambda: decoders.Sequence([decoders.Sequence([decoders.ByteLevel()]), decoders.Fuse()]), by_cuts),
    "replaced after fusing": (
        lambda: decoders.Sequence([decoders.ByteLevel(), decoders.Replace("t", "th"), decoders.Strip("s", 1, 0)]),
        lambda tokenizer, ids: by_holders_of_letters(tokenizer, ids),
    ),
    "repeats left out (CTC)": (lambda: decoders.CTC(pad_token="!", cleanup=False), by_prefixes),
}


def by_holders_of_letters(tokenizer: Any, ids: Sequence[int]) -> list[int]:
    """ByteLevel, then t → th, then an s taken off the beginning, on ids of ASCII letters."""
    texts = [token.replace("Ġ", " ").replace("t", "th") for token in tokenizer.convert_ids_to_tokens(list(ids))]
    whole = "".join(texts)
    cut = whole.startswith("s")
    assert whole[cut:] == decode(tokenizer, ids)
    return [max(len("".join(texts[:k])) - cut, 0) for k in range(len(ids))]


@pytest.mark.parametrize("name", DECODERS)
def test_starts_under_rarer_decoders(name: str) -> None:
    make, oracle = DECODERS[name]
    tokenizer, draw = with_decoder(make()), random.Random(name)
    for _ in range(40):
        letters = draw.choices(["s", "t", "a", "Ġ", "x", "!"], k=12)
        ids = tokenizer.convert_tokens_to_ids(letters)
        assert list(decode_with_starts(tokenizer, ids)[1]) == oracle(tokenizer, ids), letters


@pytest.mark.parametrize("name", ["gpt2", "tiktoken", "added", "characters", "word-level", "word-piece", "unigram"])
def test_a_tokenizer_that_only_decodes_is_followed_through_its_texts(name: str) -> None:
    """One that is not a fast one: no decoder to replay. Halves of a true U+FFFD look whole to it."""
    tokenizer = ALL[name]()

    class Slow:
        def decode(self, ids: Sequence[int], **options: Any) -> str:
            return str(tokenizer.decode(ids, **options))

    for text in [text for text in TEXTS if "\ufffd" not in text][:60]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert decode_in_place(Slow(), ids) == decode_in_place(tokenizer, ids), text


@pytest.mark.parametrize("tokenizer", [gpt2(), llama2()], ids=["gpt2", "llama2"])
def test_the_work_grows_with_the_text(tokenizer: Any) -> None:
    """Each id is decoded once."""
    ids = tokenizer("so √2 等等, " * 50)["input_ids"]
    decoded = 0

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

        def decode(self, ids: Sequence[int], **options: Any) -> str:
            nonlocal decoded
            decoded += len(ids)
            return str(tokenizer.decode(ids, **options))

    assert decode_in_place(Counting(), ids) == decode_in_place(tokenizer, ids)
    assert decoded == len(ids)
