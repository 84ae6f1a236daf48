"""Characters to tokens: exact starts for word-level and byte-level tokenizers, and spans there and back."""

from __future__ import annotations

import pytest
from oracles import longest_common_prefix
from tiny import byte_tokenizer, word_tokenizer

from steerkit.data.tokens import decode, decode_with_starts, encode_trace, make_trace, split_answer
from steerkit.data.trace import Prompt, Trace

TEXTS = [
    "the wait is the the",
    "Wait, the sum is 4.",
    "a€b",
    "€€ and — “quotes” é",
    "日本語のテキスト、待って。",
    "😀👩‍👩‍👧 family 😀",
    "naïve Wait…Wait… € the",
    "  two  spaces\n\nand lines \t",
    "x" * 30 + "é" * 12 + " the " * 9 + "😀" * 6,
]


def trace_of(tokenizer, text: str) -> Trace:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return make_trace(tokenizer, Prompt(id="p", prompt="q"), (1, 2, 3), ids, True, "</think>")


def starts_by_hand(tokenizer, ids, text: str) -> list[int]:
    """Token k begins where the longest beginning of the text that the tokens before it can spell ends."""
    return [longest_common_prefix(tokenizer.decode(ids[:k]), text) for k in range(len(ids))]


def test_starts_never_go_back_even_where_a_decoder_takes_a_letter_back() -> None:
    class Typist:
        """Id 8 is a backspace."""

        def decode(self, ids: list[int], **_: object) -> str:
            text = ""
            for token in ids:
                text = text[:-1] if token == 8 else text + chr(token)
            return text

        def batch_decode(self, rows: list[list[int]], **_: object) -> list[str]:
            return [self.decode(row) for row in rows]

    text, starts = decode_with_starts(Typist(), [*b"waitt", 8, *b" so"])
    assert text == "wait so"
    assert sorted(starts) == list(starts) and starts[-1] <= len(text)


@pytest.mark.parametrize("text", TEXTS)
def test_byte_level_starts_are_exact(text: str) -> None:
    tokenizer = byte_tokenizer()
    ids = tokenizer(text)["input_ids"]
    found, starts = decode_with_starts(tokenizer, ids)
    assert found == text
    assert list(starts) == starts_by_hand(tokenizer, ids, text)


def test_the_texts_do_split_characters() -> None:
    """So that the test above can fail."""
    tokenizer = byte_tokenizer()
    assert len(tokenizer("€")["input_ids"]) in (2, 3)
    assert len(tokenizer("😀")["input_ids"]) == 4
    assert len(tokenizer(" the")["input_ids"]) == 1


def test_byte_level_starts_equal_the_tokenizers_own_offsets() -> None:
    tokenizer = byte_tokenizer()
    for text in TEXTS:
        encoded = tokenizer(text, return_offsets_mapping=True)
        _, starts = decode_with_starts(tokenizer, encoded["input_ids"])
        assert list(starts) == [start for start, _ in encoded["offset_mapping"]]


def test_word_level_starts_are_exact() -> None:
    tokenizer = word_tokenizer()
    ids = [5, 3, 8, 6, 6, 9]
    text, starts = decode_with_starts(tokenizer, ids)
    words = ["but", "wait", "is", "the", "the", "."]
    assert text == " ".join(words)
    # a word that follows another begins with the space before it
    assert starts == (0, 3, 8, 11, 15, 19)
    for start, word in zip(starts, words, strict=True):
        assert text[start:].lstrip().startswith(word)


def test_text_that_ends_in_half_a_character() -> None:
    tokenizer = byte_tokenizer()
    ids = tokenizer("ab€")["input_ids"][:-1]
    text, starts = decode_with_starts(tokenizer, ids)
    assert text == decode(tokenizer, ids)
    assert starts[:2] == (0, 1)
    assert all(start >= 2 for start in starts[2:])
    assert max(starts) < len(text) or text == "ab"


def test_a_stray_byte_does_not_shift_what_follows() -> None:
    tokenizer = byte_tokenizer()
    stray = tokenizer("€")["input_ids"][0]
    ids = [*tokenizer("ab")["input_ids"], stray, *tokenizer(" then the rest, Wait")["input_ids"]]
    text, starts = decode_with_starts(tokenizer, ids)
    place = text.index("rest")
    assert "rest"[0] == decode(tokenizer, [ids[starts.index(place)]])[0]
    assert text[starts[-1] :] == "Wait"
    assert list(starts) == sorted(starts)


def test_no_tokens() -> None:
    assert decode_with_starts(byte_tokenizer(), []) == ("", ())


def test_a_long_text_is_decoded_in_small_pieces() -> None:
    """A token is decoded with a few before it, not with all: the work grows with the text, not its square."""
    tokenizer = byte_tokenizer()

    def decoded(length: int) -> int:
        counted = 0

        class Counting:
            def decode(self, ids, **options):
                nonlocal counted
                counted += len(ids)
                return tokenizer.decode(ids, **options)

            def batch_decode(self, rows, **options):
                return tokenizer.batch_decode(rows, **options)

        decode_with_starts(Counting(), tokenizer("日本語 é 😀 " * length)["input_ids"])
        return counted

    assert decoded(40) < 4.5 * decoded(10)


@pytest.mark.parametrize("text", TEXTS)
def test_spans_to_tokens_and_back(text: str) -> None:
    """The tokens of a span are those that share a character with it, the first overlapping one first."""
    tokenizer = byte_tokenizer()
    trace = trace_of(tokenizer, text)
    offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    for start in range(len(text)):
        for end in {start + 1, min(start + 4, len(text)), len(text)}:
            overlapping = [k for k, (a, b) in enumerate(offsets) if a < end and b > start]
            expected = (3 + overlapping[0], 3 + overlapping[-1])
            assert trace.token_span(start, end) == expected


def test_word_spans_at_every_word() -> None:
    tokenizer = word_tokenizer()
    trace = trace_of(tokenizer, "but wait is the the .")
    place = trace.text.index("wait")
    assert trace.token_span(place, place + 4) == (4, 4)
    place = trace.text.index("is the the")
    assert trace.token_span(place, place + len("is the the")) == (5, 7)
    assert trace.token_span(0, len(trace.text)) == (3, 8)


def test_the_answer_is_split_off_and_its_tokens_stay() -> None:
    assert split_answer("a</think>b", "</think>") == ("a", "</think>b")
    assert split_answer("a", "</think>") == ("a", "")
    assert split_answer("a</think>b", "") == ("a</think>b", "")
    trace = trace_of(byte_tokenizer(), "Wait, the</think> is 4")
    assert (trace.text, trace.answer_text) == ("Wait, the", "</think> is 4")
    assert decode(byte_tokenizer(), trace.ids) == trace.text + trace.answer_text


def test_teacher_forced_text_is_read_like_generated_text() -> None:
    tokenizer = byte_tokenizer()
    for text in TEXTS:
        forced = encode_trace(tokenizer, Prompt(id="p", prompt="q"), text, "</think>")
        made = make_trace(tokenizer, Prompt(id="p", prompt="q"), forced.prompt_ids, forced.ids, False, "</think>")
        assert (forced.text, forced.ids, forced.starts) == (made.text, made.ids, made.starts)
