"""Characters to tokens and back in traces: of generated ids, of texts that are read in, and in files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import build
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from vocabularies import ALL, gpt2, llama2, llama3, random_texts, tiktoken, unigram_bytes, word_level, word_piece

from steerkit.artifacts import Condition
from steerkit.context import Run, Settings
from steerkit.data.generated import Generation
from steerkit.data.importing import read_spans
from steerkit.data.placing import place_in_text, token_texts
from steerkit.data.tokens import encode_trace, make_trace
from steerkit.data.trace import Prompt, Span, Trace, first_token, read_rows, write_rows
from steerkit.errors import InputError
from steerkit.models.language_model import LanguageModel
from steerkit.models.models import Models
from steerkit.parts import Experiment
from steerkit.settings import SteeringArguments
from steerkit.steps.generations import Generations
from steerkit.steps.traces import Traces
from steerkit.store.folder import RunFolder

PROMPT = Prompt(id="p", prompt="q")
TEXTS = random_texts(120, seed=1)


def normalizing(tokenizer: PreTrainedTokenizerFast, normalizer: Any) -> PreTrainedTokenizerFast:
    core = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    core.normalizer = normalizer
    return PreTrainedTokenizerFast(tokenizer_object=core)


def run_with(tokenizer: Any, folder: Path, **experiments: Experiment) -> Run:
    """A run whose only model has this tokenizer."""
    model = build("llama").model
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    models = Models({"tiny": LanguageModel("tiny", model, tokenizer)})
    arguments = SteeringArguments()
    return Run("x", "", arguments, Settings({}), models, RunFolder(folder), experiments)


def imported(tokenizer: Any, path: Path) -> list[Trace]:
    """Traces of a file, as a run with this tokenizer reads them."""
    step = Traces(file=str(path))
    return step.make(run_with(tokenizer, path.parent).of(step, "traces"), [], None)


def parts(tokenizer: Any, text: str) -> list[tuple[str, str]]:
    """Each token, and the characters from its start to the next one's."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    starts = place_in_text(tokenizer, text, ids).starts
    places = zip(starts, [*starts[1:], len(text)], strict=True)
    return [(t, text[a:b]) for t, (a, b) in zip(tokenizer.convert_ids_to_tokens(ids), places, strict=True)]


@pytest.mark.parametrize("name", ["gpt2", "tiktoken", "added", "gemma", "characters"])
def test_a_spans_tokens_are_those_that_overlap_it(name: str) -> None:
    """Against the tokenizer's own offsets, at every character: a token may end in half of one."""
    tokenizer = ALL[name]()
    for text in TEXTS:
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        trace = make_trace(tokenizer, PROMPT, (1, 2, 3), encoded["input_ids"], True, "")
        if trace.text != text:
            continue
        offsets = encoded["offset_mapping"]
        for start in range(len(text)):
            for end in {start + 1, len(text)}:
                overlapping = [k for k, (a, b) in enumerate(offsets) if a < end and b > start]
                assert trace.token_span(start, end) == (3 + overlapping[0], 3 + overlapping[-1])


def test_a_sentence_that_begins_with_a_symbol_begins_in_the_token_that_holds_its_first_byte() -> None:
    tokenizer = tiktoken()
    ids = tokenizer.convert_tokens_to_ids(["t", "Ġâ", "Ī", "ļ", "2"])
    trace = make_trace(tokenizer, PROMPT, (), ids, True, "")
    assert (trace.text, trace.starts, trace.continues) == ("t √2", (0, 1, 2, 2, 3), (2, 3))
    assert trace.token_span(2, 4) == (1, 4)
    assert trace.token_span(1, 2) == (1, 1)
    assert trace.token_span(3, 4) == (4, 4)


def test_tokens_without_text_overlap_nothing() -> None:
    tokenizer = llama2()  # its first space is taken off the text again
    ids = tokenizer.convert_tokens_to_ids(["▁", "<0xE7>", "<0xAD>", "<0x89>", "t"])
    trace = make_trace(tokenizer, PROMPT, (), ids, True, "")
    assert (trace.text, trace.starts) == ("等t", (0, 0, 0, 0, 1))
    assert trace.token_span(0, 1) == (1, 3)
    assert first_token(trace.starts, trace.continues, 1) == 4


@pytest.mark.parametrize("name", ALL)
def test_a_text_that_is_read_in_has_the_places_of_a_generated_one(name: str) -> None:
    """Where the tokens give the text back."""
    tokenizer, same = ALL[name](), 0
    for text in [*TEXTS, "so is the sum", "wait the"]:
        forced = encode_trace(tokenizer, PROMPT, text, "</think>")
        made = make_trace(tokenizer, PROMPT, forced.prompt_ids, forced.ids, forced.finished, "</think>")
        assert forced.text + forced.answer_text == text
        assert len(forced.starts) == len(forced.ids)
        assert list(forced.starts) == sorted(forced.starts)
        if made.text + made.answer_text == text:
            same += 1
            assert forced == made
    assert same


def test_offsets_that_leave_out_spaces_are_not_taken_for_starts() -> None:
    assert llama3()("the wait", return_offsets_mapping=True)["offset_mapping"] == [(0, 3), (4, 8)]
    assert encode_trace(llama3(), PROMPT, "the wait", "").starts == (0, 3)


def test_texts_that_the_tokenizer_writes_otherwise() -> None:
    composed = normalizing(gpt2(), normalizers.NFC())
    assert parts(composed, "the e\u0301e\u0301 wait ✓") == [
        ("the", "the"),
        ("Ġ", " "),
        ("Ã©", "e\u0301"),
        ("Ã©", "e\u0301"),
        ("Ġwait", " wait"),
        ("Ġâľĵ", " ✓"),
    ]
    trimmed = normalizing(llama3(), normalizers.NFC())
    assert parts(trimmed, "e\u0301  wait \n the") == [
        ("Ã©", "e\u0301"),
        ("Ġ", " "),
        ("Ġwait", " wait"),
        ("Ġ", " "),
        ("Ċ", "\n"),
        ("Ġthe", " the"),
    ]
    assert parts(normalizing(gpt2(), normalizers.Strip()), " \n the wait ") == [("the", "the"), ("Ġwait", " wait ")]
    assert parts(word_piece(), "Wait,\n the Sum") == [("wait", "Wait"), (",", ",\n"), ("the", " the"), ("sum", " Sum")]
    assert parts(word_level(), "the zebra  is") == [("the", "the"), ("<unk>", " zebra "), ("is", " is")]
    bytes_in_a_run = normalizing(unigram_bytes(), normalizers.NFKC())
    ids = bytes_in_a_run("ﬁ √√a")["input_ids"]
    tokens = bytes_in_a_run.convert_ids_to_tokens(ids)
    assert tokens == ["▁", "<0x66>", "i", "▁", *["<0xE2>", "<0x88>", "<0x9A>"] * 2, "a"]
    found = place_in_text(bytes_in_a_run, "ﬁ √√a", ids)
    assert found.starts == (0, 0, 0, 1, 2, 2, 2, 3, 3, 3, 4)
    assert found.continues == (2, 5, 6, 8, 9)


def test_a_space_put_before_the_text_is_not_counted() -> None:
    core = Tokenizer.from_str(gpt2().backend_tokenizer.to_str())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core)
    assert parts(tokenizer, "the 🤔 wait") == [("Ġthe", "the"), ("ĠðŁ¤Ķ", " 🤔"), ("Ġwait", " wait")]


def test_the_marker_may_lie_across_tokens() -> None:
    """A token that begins in the reasoning belongs to it, whatever it ends with."""
    tokenizer = tiktoken()
    ids = tokenizer.convert_tokens_to_ids(["t", "Ġâ", "ľ", "ĵ", "<", "/", "t", "h", "i", "n", "k", ">", "s", "o"])
    trace = make_trace(tokenizer, PROMPT, (), ids, True, "</think>")
    assert (trace.text, trace.answer_text) == ("t ✓", "</think>so")
    assert trace.thinking == 4
    trace = make_trace(tokenizer, PROMPT, (), ids, True, "✓")
    assert (trace.text, trace.thinking) == ("t ", 2)


def test_continues_in_files(tmp_path: Path) -> None:
    """Left out where it is empty, checked where it is not."""
    path = tmp_path / "traces.jsonl"
    plain = make_trace(gpt2(), PROMPT, (1,), gpt2()("so the")["input_ids"], True, "")
    split = make_trace(tiktoken(), PROMPT, (1,), tiktoken().convert_tokens_to_ids(["Ġâ", "Ī", "ļ"]), True, "")
    write_rows(path, [plain, split])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert "continues" not in rows[0]
    assert rows[1]["continues"] == [1, 2]
    assert read_rows(path, Trace) == [plain, split]
    for wrong in ([0], [2, 1], [1, 3], [1, 1]):
        path.write_text(json.dumps(rows[1] | {"continues": wrong}) + "\n")
        with pytest.raises(InputError, match="'continues' must be places among the 3 'ids' behind the first, in order"):
            read_rows(path, Trace)


def test_tokens_of_files_are_placed_anew(tmp_path: Path) -> None:
    """Starts of another program, or of an earlier version, and tokens of spans are not taken over."""
    tokenizer = tiktoken()
    ids = tokenizer.convert_tokens_to_ids(["t", "Ġâ", "Ī", "ļ", "2"])
    trace = make_trace(tokenizer, PROMPT, (1, 2), ids, True, "")
    composed = "e\u0301 is"
    other = normalizing(gpt2(), normalizers.NFC())
    write_rows(tmp_path / "traces.jsonl", [replace(trace, starts=(0, 0, 0, 0, 1), continues=())])
    assert imported(tokenizer, tmp_path / "traces.jsonl") == [trace]
    spans = [Span(trace_id="p", label="x", judge="j", start=2, end=4, first=9, last=99)]
    write_rows(tmp_path / "spans.jsonl", spans)
    assert read_spans(tmp_path / "spans.jsonl", [trace], []).spans == [replace(spans[0], first=3, last=6)]

    # Of the other one, the tokens are not the text, but they are those of the text.
    forced = encode_trace(other, PROMPT, composed, "")
    write_rows(tmp_path / "forced.jsonl", [replace(forced, starts=(0,) * len(forced.ids))])
    assert imported(other, tmp_path / "forced.jsonl") == [forced]
    foreign = make_trace(tokenizer, PROMPT, (), tokenizer("the sum of √2 is")["input_ids"], True, "")
    wrong = [replace(foreign, id="a"), replace(trace, id="b", ids=(-1, *trace.ids[1:]))]
    write_rows(tmp_path / "wrong.jsonl", [forced, *wrong])
    said = r"(?s)2 problems.*trace 'a': its 'ids' are not its text under the tokenizer of tiny; .*'b'"
    with pytest.raises(InputError, match=said):
        imported(other, tmp_path / "wrong.jsonl")


class Unsteered(Experiment):
    """The model as it is."""

    def conditions(self, run: Any, *needs: Any, **_: Any) -> Sequence[Condition]:
        return [run.unsteered("tiny")]


def test_generations_say_which_tokens_continue_a_character(tmp_path: Path) -> None:
    tokenizer = tiktoken()
    step = Generations()
    step.of = "test"
    run = run_with(tokenizer, tmp_path, unsteered=Unsteered()).of(step, step.title)
    prompts = [Prompt(id=name, prompt="q", split="test") for name in ("p", "r")]
    texts = [
        {"ids": ids, "finished": True, "broken": ""}
        for ids in (tokenizer.convert_tokens_to_ids(["Ġâ", "Ī", "ļ"]), tokenizer("so")["input_ids"])
    ]
    found = step.join(run, [texts], prompts, None, {})
    assert [(row.prompt_id, row.text, row.starts, row.continues) for row in found] == [
        ("p", " √", (0, 1, 1), (1, 2)),
        ("r", "so", tuple(range(len(texts[1]["ids"]))), ()),
    ]
    step.save(run, found)
    rows = [json.loads(line) for line in (tmp_path / "generations" / "test.jsonl").read_text().splitlines()]
    assert rows[0]["continues"] == [1, 2] and "continues" not in rows[1]
    assert step.load(run) == [Generation.from_json(row) for row in rows] == found


def test_a_vocabularys_texts_keep_their_spaces() -> None:
    """Also where the decoder takes a space off a text's beginning."""

    def named(tokenizer: Any, tokens: Sequence[str]) -> list[str]:
        texts = token_texts(tokenizer)
        assert len(texts) == len(tokenizer)
        return [texts[i] for i in tokenizer.convert_tokens_to_ids(list(tokens))]

    assert named(llama2(), ["▁the▁the▁wai", "s", "▁", "<0x41>", "<0xE7>"]) == [" the the wai", "s", " ", "A", "\ufffd"]
    assert named(gpt2(), ["Ġwait", "wait", "ðŁ", "ĠðŁ"]) == [" wait", "wait", "\ufffd", " \ufffd"]
    assert named(unigram_bytes(), ["▁wait", "<0x20>"]) == [" wait", " "]
    byte_level = gpt2()
    alone = byte_level.batch_decode([[i] for i in range(len(byte_level))])
    assert token_texts(byte_level) == alone
