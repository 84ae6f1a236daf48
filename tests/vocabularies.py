"""Fast tokenizers of every kind, trained here on a few lines, and random texts of many scripts."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SYMBOLS = "so √2 ≤ x ∈ S 🤔, 等等 naïve 👩\u200d👩\u200d👧 ✓ ok"
CORPUS = [
    SYMBOLS,
    "Wait, the sum is 4. But wait, the sum of √2 and √3 is not √5!",
    "等等，这不对。待って、違う。",
    "مرحبا بالعالم שלום עולם",
    "e\u0301 a\u0308 ñ café naïve",
    "🤔 ✓ ∈ ≥ ≤ — “quotes” …",
    "x\n\ny\t z  \r\n 1234567",
    "the the wait wait sum sum is is but but",
    " ✓ ✓ ∈ ∈ √ √ ≥ ≥ 🤔 🤔 ok ok",
]
FRAGMENTS = [
    "Wait",
    ", ",
    "the",
    " sum",
    " is",
    " but",
    ".",
    "\n\n",
    "\n",
    " ",
    "  ",
    "\t",
    "\r\n",
    " 12",
    "345",
    " √",
    "2",
    " ∈",
    " ≥",
    "≤",
    " 🤔",
    "🤔",
    " ✓",
    "等等",
    "，",
    "这不对",
    "待って",
    " 日本",
    "naïve",
    " café",
    "e\u0301",
    "a\u0308\u0323",
    "\u0301",
    "שלום",
    " עולם",
    "مرحبا",
    "\u200f",
    "\u202e",
    "👩\u200d👩\u200d👧",
    "👍🏽",
    "🇩🇪",
    "❤\ufe0f",
    "\u200d",
    "\u200b",
    "\x00",
    "\x07",
    "\x7f",
    "\u2028",
    "\u3000",
    "\u00a0",
    "\ufeff",
    "\ufffd",
    "\U0010ffff",
    "Ġ",
    "▁",
    "</w>",
    "##",
    "<0xE7>",
    "ﬁ",
    "½",
    "İ",
    "<think>",
    "</think>",
    "<｜end｜>",
    "don't",
    "'s",
    "x" * 9,
    "—",
    "“q”",
    "…",
]
SPLIT = Regex(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = ["<unk>", "<s>", "</s>", "<think>", "</think>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())


def random_texts(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices(FRAGMENTS, k=draw.randint(1, 14))) for _ in range(count)]


def _wrapped(core: Tokenizer, **options: Any) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=core, **options)


def _byte_level(core: Tokenizer, size: int, corpus: list[str] | None = None) -> Tokenizer:
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=ALPHABET, show_progress=False)
    core.train_from_iterator(corpus or CORPUS, trainer)
    return core


@cache
def gpt2() -> PreTrainedTokenizerFast:
    """Byte-level BPE whose merges end inside characters."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return _wrapped(_byte_level(core, 340))


@cache
def llama3() -> PreTrainedTokenizerFast:
    """Byte-level BPE on Llama 3's split, with offsets that leave out leading spaces."""
    core = Tokenizer(models.BPE(ignore_merges=True))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(SPLIT, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    core = _byte_level(core, 360)
    core.post_processor = processors.ByteLevel(trim_offsets=True, add_prefix_space=False)
    return _wrapped(core)


@cache
def tiktoken() -> PreTrainedTokenizerFast:
    """Byte-level BPE without a split: tokens begin and end anywhere, in the middle of characters too."""
    core = Tokenizer(models.BPE(ignore_merges=True))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return _wrapped(_byte_level(core, 420, CORPUS * 3))


@cache
def added() -> PreTrainedTokenizerFast:
    """Byte-level BPE with special and added tokens, some of which the byte alphabet can't write."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core = _byte_level(core, 320)
    core.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in (*SPECIAL, "<｜end｜>")])
    core.add_tokens([AddedToken(t, normalized=False) for t in ("等等", " 12", "\n\n", "…")])
    return _wrapped(core)


def _byte_fallback(normalizer: Any, steps: list[Any]) -> Tokenizer:
    core = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    core.normalizer = normalizer
    core.decoder = decoders.Sequence(steps)
    alphabet = [c for c in sorted({c for line in CORPUS for c in line}) if c < "\u2000"]  # the others fall to bytes
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=[*SPECIAL[:3], *BYTES],
        limit_alphabet=len(alphabet),
        show_progress=False,
        initial_alphabet=["▁"],
    )
    core.train_from_iterator(["".join(c for c in line if c in alphabet or c == " ") for line in CORPUS], trainer)
    return core


def _as_in_llama2() -> list[Any]:
    return [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]


@cache
def llama2() -> PreTrainedTokenizerFast:
    """SentencePiece-like BPE with byte fallback; a space is put before the text and taken off again."""
    spaces = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return _wrapped(_byte_fallback(spaces, _as_in_llama2()))


@cache
def gemma() -> PreTrainedTokenizerFast:
    """SentencePiece-like BPE with byte fallback and nothing put before the text."""
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    return _wrapped(_byte_fallback(normalizers.Replace(" ", "▁"), steps))


@cache
def unigram() -> PreTrainedTokenizerFast:
    """Unigram with metaspace."""
    core = Tokenizer(models.Unigram())
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=220, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)
    core.train_from_iterator(CORPUS, trainer)
    return _wrapped(core, unk_token="<unk>")


@cache
def unigram_bytes() -> PreTrainedTokenizerFast:
    """Unigram with byte fallback and metaspace: marks may come out of bytes."""
    pieces = [
        ("<unk>", 0.0),
        *((c, -5.0) for c in "▁abcdeiosthuwxW.,2"),
        ("▁the", -2.0),
        ("▁wait", -2.0),
        ("▁is", -2.0),
    ]
    core = Tokenizer(models.Unigram([*pieces, *((byte, -9.0) for byte in BYTES)], 0, byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return _wrapped(core, unk_token="<unk>")


@cache
def word_piece() -> PreTrainedTokenizerFast:
    """BERT's: lower case, accents off, words put together with spaces, some taken away before punctuation."""
    core = Tokenizer(models.WordPiece(unk_token="<unk>"))
    core.normalizer = normalizers.BertNormalizer()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece(prefix="##")
    trainer = trainers.WordPieceTrainer(vocab_size=260, special_tokens=SPECIAL, show_progress=False)
    core.train_from_iterator(CORPUS, trainer)
    return _wrapped(core, unk_token="<unk>")


@cache
def word_level() -> PreTrainedTokenizerFast:
    """Words, put together with spaces; no decoder."""
    core = Tokenizer(models.WordLevel(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.train_from_iterator(CORPUS, trainers.WordLevelTrainer(special_tokens=SPECIAL, show_progress=False))
    return _wrapped(core, unk_token="<unk>")


@cache
def end_of_word() -> PreTrainedTokenizerFast:
    """The first BPE: a word's last token carries `</w>`, which is decoded to the space after it."""
    core = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.decoder = decoders.BPEDecoder("</w>")
    trainer = trainers.BpeTrainer(
        vocab_size=260, special_tokens=SPECIAL, end_of_word_suffix="</w>", show_progress=False
    )
    core.train_from_iterator(CORPUS, trainer)
    return _wrapped(core, unk_token="<unk>")


@cache
def characters() -> PreTrainedTokenizerFast:
    """A token a character; a few specials beside."""
    known = sorted({c for text in (*CORPUS, *FRAGMENTS) for c in text})
    core = Tokenizer(models.BPE({c: i for i, c in enumerate(["<unk>", *known])}, [], unk_token="<unk>"))
    core.decoder = decoders.Fuse()
    core.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    return _wrapped(core, unk_token="<unk>")


ALL: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "gpt2": gpt2,
    "llama3": llama3,
    "tiktoken": tiktoken,
    "added": added,
    "llama2": llama2,
    "gemma": gemma,
    "unigram": unigram,
    "unigram-bytes": unigram_bytes,
    "word-piece": word_piece,
    "word-level": word_level,
    "end-of-word": end_of_word,
    "characters": characters,
}
