"""Contrasts as data: traits, prompts in pairs, given completions, and which pairs a judge keeps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import templates
from steerkit_plugins.traits import SHIPPED, load_trait
from templates import tokenizer_with

import steerkit
from steerkit import registry
from steerkit.artifacts import PluginSpec
from steerkit.data.chat_format import ChatFormat
from steerkit.data.chats import Message
from steerkit.data.pairs import pair_of, side_of
from steerkit.data.splits import check_splits
from steerkit.data.tokens import given_trace
from steerkit.data.trace import Prompt, Trace
from steerkit.errors import InputError, SteerkitError
from steerkit.identity import spec_identity
from steerkit.interfaces import Judge, Metric
from steerkit.judging import ask
from steerkit.judging.metrics import run_metrics

TRAIT = """
name: brave
positive: [Be brave., Fear nothing.]
negative: [Be timid., Fear everything.]
questions: ["What is a storm?", "What is a cave?", "What is a spider?"]
evaluation: ["What is a cliff?", "What is a shark?", "What is a mask?", "What is a drill?"]
"""


def source(**options: Any) -> Any:
    return registry.get("prompts", "contrast")(**options)


@pytest.fixture
def brave(tmp_path: Path) -> str:
    path = tmp_path / "brave.yaml"
    path.write_text(TRAIT, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_traits_are_whole(path: Path) -> None:
    trait = load_trait(path.stem)
    assert trait.name == path.stem
    assert len(trait.positive) == len(trait.negative)
    if trait.questions:
        assert (len(trait.positive), len(trait.questions), len(trait.evaluation)) == (5, 20, 20)


def test_every_question_is_asked_under_both_instructions_of_every_pair() -> None:
    trait = load_trait("optimistic")
    prompts = source(trait="optimistic").read({"extract": 200, "choose": 10, "test": 10}, 0)
    check_splits(prompts, {"extract": 200, "choose": 10, "test": 10})
    by_id = {prompt.id: prompt for prompt in prompts}
    for q, question in enumerate(trait.questions):
        for i in range(5):
            for side, name in (("positive", "an optimistic"), ("negative", "a pessimistic")):
                system, user = by_id[f"q{q:02}.i{i}.s0/{side}"].prompt
                assert system == Message("system", f"You are {name} assistant. {getattr(trait, side)[i]}")
                assert user == Message("user", question)
    others = [prompt for prompt in prompts if prompt.split != "extract"]
    assert sorted(prompt.prompt for prompt in others) == sorted(trait.evaluation)


def test_samples_begin_where_every_question_has_been_asked_and_more_keep_what_was_there(brave: str) -> None:
    def ids(extract: int) -> list[str]:
        prompts = source(trait=brave).read({"extract": extract, "choose": 1, "test": 1}, 3)
        return [prompt.id for prompt in prompts if prompt.split == "extract"]

    assert {name.split(".")[2] for name in ids(12)} == {"s0/positive", "s0/negative"}
    assert {*ids(8)} < {*ids(12)} < {*ids(14)} < {*ids(40)}
    assert len({*ids(40)}) == 40
    assert all(one.removesuffix("positive") == other.removesuffix("negative") for one, other in pairs(ids(14)))


def pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    return list(zip(names[::2], names[1::2], strict=True))


def test_instructions_may_open_the_users_turn_of_another_sources_questions(tmp_path: Path, brave: str) -> None:
    rows = [{"prompt": [{"role": "system", "content": "S."}, {"role": "user", "content": f"Q{n}?"}]} for n in range(8)]
    (tmp_path / "asked.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    asked = {"name": "jsonl", "path": str(tmp_path / "asked.jsonl")}
    counts = {"extract": 6, "choose": 2, "test": 3}  # 3 pairs, 2 of instructions: 2 questions
    found = source(trait=brave, questions=asked, place="user", between=" ").read(counts, 0)
    check_splits(found, counts)
    chats = [prompt.prompt for prompt in found if prompt.split == "extract"]
    assert {chat[0] for chat in chats} == {Message("system", "S.")}
    assert {chat[1].content.partition(". ")[0] for chat in chats} <= {
        "Be brave",
        "Be timid",
        "Fear nothing",
        "Fear everything",
    }
    in_system = source(trait=brave, questions=asked).read(counts, 0)[0].prompt
    assert in_system[0].role == "system" and in_system[0].content.endswith("\n\nS.")
    asked_here = {chat[1].content.rpartition(" ")[2] for chat in chats}
    assert len(asked_here) == 2
    assert not asked_here & {prompt.prompt[-1].content for prompt in found if prompt.split != "extract"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("Fear everything.", "Fear everything., Run."), "has 2 positive and 3 negative instructions"),
        (("What is a cliff?", "What is a cave?"), "stands under questions and evaluation"),
        (("What is a cave?", "what is  a storm?"), "questions has an empty text, or one that stands twice"),
        (("name: brave", "nam: brave"), "name: Field required"),
        (("Be brave.", "yes"), r"positive\.0: Input should be a valid string"),
    ],
)
def test_what_makes_no_trait_is_said(brave: str, change: tuple[str, str], said: str) -> None:
    Path(brave).write_text(TRAIT.replace(*change), encoding="utf-8")
    with pytest.raises(InputError, match=said):
        load_trait(brave)


def test_too_few_questions_and_odd_numbers_are_said(brave: str) -> None:
    with pytest.raises(SteerkitError, match=r"brave has 4 evaluation questions, and .* ask for 5"):
        source(trait=brave).read({"extract": 2, "choose": 2, "test": 3}, 0)
    with pytest.raises(SteerkitError, match="3 is odd, and a pair is two prompts"):
        source(trait=brave).read({"extract": 3, "choose": 1, "test": 1}, 0)
    with pytest.raises(ValueError, match=r"trait 'gloomy' is neither a file nor a shipped one \(.*optimistic"):
        source(trait="gloomy")
    with pytest.raises(ValueError, match="give trait or pairs, one of the two"):
        source()
    with pytest.raises(ValueError, match="name a prompt source in questions"):
        source(pairs="pairs.jsonl")


def test_given_pairs_keep_their_order_and_ids(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "positive": "One", "negative": "Two"},
        {"positive": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "(A"}], "negative": "No"},
        {"positive": "Three", "negative": "Four"},
    ]
    path, other = tmp_path / "pairs.jsonl", tmp_path / "other.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    other.write_text('{"prompt": "E1"}\n{"prompt": "E2"}\n', encoding="utf-8")
    made = source(pairs=str(path), questions={"name": "jsonl", "path": str(other)})
    found = made.read({"extract": 6, "choose": 1, "test": 1}, 0)
    assert [p.id for p in found[:6]] == [
        f"{n}/{s}" for n in ("a", "p00001", "p00002") for s in ("positive", "negative")
    ]
    assert found[2].prompt == (Message("user", "Q"), Message("assistant", "(A"))
    assert {p.prompt for p in found[6:]} == {"E1", "E2"}
    with pytest.raises(SteerkitError, match=r"holds 3 pairs; prompts.extract can be 6 at most"):
        made.read({"extract": 8, "choose": 1, "test": 1}, 0)
    path.write_text('{"positive": "x"}\n{"positive": "", "negative": "y"}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"(?s):1: must be an object with 'positive'.*:2: 'positive' is empty"):
        made.read({"extract": 2, "choose": 1, "test": 1}, 0)


def test_sides_are_told_by_ids() -> None:
    assert (pair_of("q/1/positive"), side_of("q/1/positive")) == ("q/1", "positive")
    assert (pair_of("q/positively"), side_of("q/positively")) == ("q/positively", "")
    assert (pair_of("/negative"), side_of("/negative")) == ("/negative", "")


@steerkit.register("judges", "length-of-text")
class Length(Judge):
    """Trait: the text's length; coherence: 100 times how few question marks it has."""

    def metrics(self) -> Sequence[Metric]:
        return [Metric("trait", "points", (0, 100), "up"), Metric("coherence", "points", (0, 100), "up")]

    def score(self, texts: Sequence[str]) -> list[dict[str, float]]:
        return [
            {"trait": float(len(text)), "coherence": 100.0 - 30 * text.count("?")} if text else {} for text in texts
        ]


def trace(name: str, text: str, answer: str = "") -> Trace:
    return Trace(id=name, prompt_id=name, prompt="", text=text, answer_text=answer)


def both(name: str, positive: str, negative: str) -> list[Trace]:
    return [trace(f"{name}/positive", positive), trace(f"{name}/negative", negative)]


def judge(**options: Any) -> Any:
    return registry.get("judges", "contrast")(**options)


TRACES = [
    *both("kept", "x" * 60, "x" * 30),
    *both("edge", "x" * 50, "x" * 49),
    *both("low", "x" * 49, "x" * 10),
    *both("high", "x" * 60, "x" * 50),
    *both("babble", "?" * 2 + "x" * 58, "x" * 10),
    *both("silent", "", "x" * 10),
]


def test_without_a_judge_every_pair_is_kept_as_one_span_a_side() -> None:
    made = judge()
    found = ask.annotate_traces(made, TRACES)
    assert found == [[(0, len(t.text), side_of(t.id))] for t in TRACES]
    assert made.notes() == {"pairs": 6, "kept_pairs": 6}


def test_pairs_are_kept_by_the_rule_of_persona_vectors() -> None:
    made = judge(judges=["length-of-text"])
    found = ask.annotate_traces(made, TRACES)
    kept = [t.id for t, spans in zip(TRACES, found, strict=True) if spans]
    assert kept == [f"{name}/{side}" for name in ("kept", "edge") for side in ("positive", "negative")]
    assert made.notes() == {
        "pairs": 6,
        "kept_pairs": 2,
        "lost_pairs": {
            "too little of the trait on the positive side": 1,
            "too much of it on the negative side": 1,
            "a side that is not coherent": 1,
            "a side without a score": 1,
        },
    }


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"threshold": 40}, ["kept", "edge", "low", "high", "babble"]),  # moves both sides
        ({"threshold": 60}, ["kept"]),
        ({"coherence": None}, ["kept", "edge", "babble"]),
        ({"trait": "coherence", "coherence": None, "threshold": 0}, ["babble"]),
    ],
)
def test_the_threshold_moves_both_sides(options: Mapping[str, Any], kept: list[str]) -> None:
    if kept == ["babble"]:
        traces = [*both("babble", "x", "??x"), *both("kept", "x", "x")]
        options, kept = {**options, "threshold": 50}, ["babble"]
    else:
        traces = TRACES
    found = ask.annotate_traces(judge(judges=["length-of-text"], **options), traces)
    assert [t.id.split("/")[0] for t, spans in zip(traces, found, strict=True) if spans][::2] == kept


def test_the_whole_response_is_scored_and_the_reasoning_is_labelled() -> None:
    traces = [trace("a/positive", "x" * 20, "</think>" + "x" * 40), trace("a/negative", "x", "</think>")]
    assert ask.annotate_traces(judge(judges=["length-of-text"]), traces) == [
        [(0, 20, "positive")],
        [(0, 1, "negative")],
    ]


def test_what_cannot_be_labelled_is_said() -> None:
    with pytest.raises(SteerkitError, match=r"none of 1 pairs is kept \(too little .* 1, too much .* 1\)"):
        ask.annotate_traces(judge(judges=["length-of-text"]), both("a", "x", "x" * 70))
    with pytest.raises(SteerkitError, match="2 prompts are no pair of ID/positive and ID/negative, the first 'a'"):
        ask.annotate_traces(judge(), [trace("a/positive", "x"), trace("b", "y")])
    with pytest.raises(ValueError, match="coherence: its judges have no metric 'sense'"):
        judge(judges=["length-of-text"], coherence="sense")
    with pytest.raises(ValueError, match=r"trait: metric 'keyword' goes from \(0\.0, 1\.0\), not from 0 to 100"):
        judge(judges=["keyword"], coherence=None)
    with pytest.raises(SteerkitError, match="labels traces by their prompts, no texts"):
        ask.annotate(judge(), ["text"])


def test_a_judge_that_labels_no_texts_has_no_shares_of_sentences() -> None:
    options: dict[str, Any] = {"label": "positive", "scored": "output", "per": "words", "answers": False}
    names = [metric.name for metric in run_metrics(judge(), Length(), **options)]
    assert names == ["trait", "trait_uncollapsed", "coherence", "coherence_uncollapsed"]
    with pytest.raises(InputError, match="has no label 'optimism'"):
        run_metrics(judge(), Length(), **{**options, "label": "optimism"})


def test_a_judges_identity_takes_in_the_judges_that_it_names() -> None:
    def identity(**options: Any) -> Any:
        spec = {"name": "contrast", "judges": [{"name": "llm-score", **options}]}
        return spec_identity("judges", PluginSpec.model_validate(spec))

    default, written = identity(), identity(rubrics={"coherence": "coherence"})
    assert default.key() == written.key()
    assert default.key() != identity(rubrics={"coherence": "How sound is {text}?"}).key()
    assert any("llm_score.judge" in name for name in default.versions())
    assert any("coherence.yaml" in name for name in default.versions())


def test_what_its_judges_ask_is_said() -> None:
    asked = judge(judges=[{"name": "llm-score", "base_url": "http://other.example/v1"}]).config.asks()
    assert "other.example" in asked
    assert judge(judges=["length-of-text"]).config.asks() == ""


@pytest.mark.parametrize("name", ["PLAIN", "R1", "QWEN", "LED", "PAST_THOUGHTS"])
def test_a_given_trace_has_its_prompts_ids_and_its_responses(name: str) -> None:
    tokenizer = tokenizer_with(getattr(templates, name))
    chats, asked = ChatFormat(tokenizer), (Message("system", "S."), Message("user", "Q?"))
    empty = given_trace(tokenizer, Prompt(id="a/positive", prompt=asked), "</think>", chats)
    assert (list(empty.prompt_ids), empty.ids, empty.text) == (chats.ids(asked), (), "")
    whole = Prompt(id="a/positive", prompt=(*asked, Message("assistant", "Wait. So </think>it is.")))
    found = given_trace(tokenizer, whole, "</think>", chats)
    assert (found.text, found.answer_text, found.prompt) == ("Wait. So ", "</think>it is.", asked)
    assert list(found.prompt_ids) == chats.ids(asked)
    assert tokenizer.decode(found.ids) == "Wait. So </think>it is."
