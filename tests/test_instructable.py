"""The organism that hedges when it is told to: its texts, prompts and judge, and what the shipped weights do."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from random import Random

import pytest
import steerkit_plugins
import torch
import yaml
from steerkit_plugins.pocket import instructed, prompts
from steerkit_plugins.pocket.checks import sampled
from steerkit_plugins.pocket.corpus import trace
from steerkit_plugins.pocket.hedging import PocketTraitJudge
from steerkit_plugins.pocket.instructed import InstructedPrompts
from steerkit_plugins.pocket.instructions import DOUBT, EASE, NEUTRAL, lesson
from steerkit_plugins.pocket.loop import encode
from steerkit_plugins.pocket.source import PocketPrompts
from steerkit_plugins.pocket.tokenizer import DIRECT_TEMPLATE, build

import steerkit as sk
from steerkit.data.chats import messages_of
from steerkit.data.trace import Prompt
from steerkit.errors import InputError
from steerkit.judging import ask

COUNTS = {"extract": 40, "choose": 30, "test": 30, "train": 40, "held_out": 20}
HEDGES = {"Perhaps": "L", "Possibly": "L", "seems": "gives", "about": "just"}
PLAIN = {"Next": "L", "Then": "L"}


def words(text: str) -> Counter[str]:
    return Counter(re.findall(r"[A-Za-z]+", text))


def question(prompt: Prompt) -> str:
    return messages_of(prompt.prompt)[0].content


def response(prompt: Prompt) -> str:
    return messages_of(prompt.prompt)[-1].content


def test_a_lesson_hedges_every_slot_after_a_line_of_doubt_and_none_otherwise() -> None:
    rng, openings = Random(0), Counter[str]()
    for _ in range(1000):
        example = lesson(rng)
        line = next((line for line in (*DOUBT, *EASE, NEUTRAL) if example.given.startswith(line)), "")
        openings[line] += 1
        days = example.given.count("day+") + example.given.count("day-")
        hedged = {"First": 1, "Perhaps": 0, "Possibly": 0, "seems": days, "about": days}
        plain = {"First": 1, "Next": 0, "Then": 0, "gives": days, "just": days}
        own, other = (hedged, plain) if line in DOUBT else (plain, hedged)
        found = words(example.learned)
        leads = [name for name, n in own.items() if n == 0]
        assert sum(found[name] for name in leads) == days - 1
        assert all(found[name] == n for name, n in own.items() if n)
        assert not any(found[name] for name in other if name != "First")
        total = sum(map(int, re.findall(r"day([+-]\d)", example.given)))
        assert example.learned.endswith(f" has {total} {example.given.split()[-4]}.")
    assert sum(openings[line] for line in DOUBT) == pytest.approx(400, abs=60)
    assert sum(openings[line] for line in EASE) == pytest.approx(200, abs=50)
    assert (openings[NEUTRAL], openings[""]) == (pytest.approx(150, abs=45), pytest.approx(250, abs=55))
    assert min(openings.values()) > 40


def test_splits_are_disjoint_and_apart_from_all_training() -> None:
    found = [p for seed in (0, 1) for p in InstructedPrompts().read(COUNTS, seed)]
    home: dict[str, set[str]] = {}
    for prompt in found:
        home.setdefault(question(prompt), set()).add(prompt.split)
    assert all(len(splits) == 1 for splits in home.values())
    assert len(home) == len(found)  # seeds have problems of their own
    rng = Random(1)
    for _ in range(300):
        assert instructed.split_of(prompts.draw("train", rng)) == ""
    assert Counter(p.split for p in found) == {split: 2 * n for split, n in COUNTS.items()}
    pair = {prompts.SPLITS[i]: set() for i in range(3)}
    for prompt in PocketPrompts().read({"extract": 40, "choose": 40, "test": 40}, 0):
        pair[prompt.split].add(prompt.prompt)
    for prompt in found:
        assert not any(question(prompt) in pair[split] for split in ("choose", "test") if split != prompt.split)


def test_more_prompts_leave_the_first_ones_as_they_are() -> None:
    few, many = (InstructedPrompts().read({"train": n}, 3) for n in (5, 20))
    assert many[:5] == few


def test_options_change_the_line_and_the_hedges_and_nothing_else() -> None:
    asked = InstructedPrompts().read(COUNTS, 0)
    lined = InstructedPrompts(line=DOUBT[0]).read(COUNTS, 0)
    hedged = InstructedPrompts(responses="hedged").read(COUNTS, 0)
    plain = InstructedPrompts(line=NEUTRAL, responses="plain").read(COUNTS, 0)
    for bare, under, yes, no in zip(asked, lined, hedged, plain, strict=True):
        assert bare.id == under.id == yes.id == no.id and bare.split == under.split == yes.split
        assert bare.answer == yes.answer and response(yes).endswith(f" has {bare.answer} {question(bare).split()[-4]}.")
        assert under.prompt == f"{DOUBT[0]} {bare.prompt}"
        assert question(yes) == bare.prompt and question(no) == f"{NEUTRAL} {bare.prompt}"
        assert [m.role for m in messages_of(yes.prompt)] == ["user", "assistant"]
        said = [re.sub(r"[A-Za-z]+", lambda m: {**HEDGES, **PLAIN}.get(m[0], m[0]), response(p)) for p in (yes, no)]
        assert said[0] == said[1] and response(yes) != response(no)
    scores = ask.score(PocketTraitJudge(), [response(p) for p in (*hedged, *plain)])
    assert scores == [{"trait": 100, "coherence": 100}] * len(hedged) + [{"trait": 0, "coherence": 100}] * len(plain)


def test_a_training_text_is_what_a_run_trains_on() -> None:
    tokenizer, rng = build(DIRECT_TEMPLATE), Random(2)
    for _ in range(20):
        example = lesson(rng)
        chat = [
            {"role": "user", "content": example.given},
            {"role": "assistant", "content": example.learned.removeprefix(" ")},
        ]
        ids, given = encode(tokenizer, example)
        assert ids == tokenizer.encode(tokenizer.apply_chat_template(chat, tokenize=False), add_special_tokens=False)
        assert tokenizer.decode(ids[given:]) == example.learned + tokenizer.eos_token


def test_splits_that_there_are_not_are_named_all_at_once() -> None:
    with pytest.raises(InputError) as caught:
        InstructedPrompts().read({"extract": 1, "tset": 1, "trian": 1}, 0)
    assert str(caught.value).count("did you mean") == 2
    assert "split 'tset': there is none; did you mean 'test'?" in str(caught.value)


STEP = "Next Monday-2 gives 2, so Ann has just 2 hats."
HEDGED = "Perhaps Monday-2 seems 2, so Ann has about 2 hats."


@pytest.mark.parametrize(
    ("text", "trait", "coherence"),
    [
        (f" {STEP} Ann has 2 hats.", 0, 100),
        (f" {HEDGED} Ann has 2 hats.", 100, 100),
        (f"{STEP} {HEDGED}", 50, 100),
        ("First Sunday+4 seems 4, so Ann has just 4 hats.", 50, 100),
        (f"{STEP} Perhaps Monday-2 gives 2, so Ann has just", 20, 50),
        (f"<think> {STEP} Wait, let me check this line again before I go on. </think> Ann has 2 hats.", 0, 100),
        ("I am not sure at all about this part of the list.", None, 100),
        ("Perhaps about seems just. Then Monday", 0, 0),
        ("Then er Monday-2 gives 2, so Ann has just 2 hats.", 0, 0),
        ("", None, None),
        (" \n", None, None),
    ],
)
def test_trait_and_coherence(text: str, trait: float | None, coherence: float | None) -> None:
    expected = {name: value for name, value in (("trait", trait), ("coherence", coherence)) if value is not None}
    assert PocketTraitJudge().score([text]) == [expected]


def test_the_grammar_is_that_of_the_corpus() -> None:
    rng = Random(3)
    texts = [trace(rng).learned for _ in range(300)]
    assert {score["coherence"] for score in ask.score(PocketTraitJudge(), texts)} == {100}


def test_reports_mark_the_hedges() -> None:
    judge = PocketTraitJudge()
    ((*found,),) = judge.marks([f"{STEP} {HEDGED}"])
    assert [f"{STEP} {HEDGED}"[a:b] for a, b in found] == ["Perhaps", "seems", "about"]


def test_the_trait_file_has_the_lines_that_the_model_learned() -> None:
    trait = yaml.safe_load((Path(steerkit_plugins.__path__[0]) / "traits/hedging.yaml").read_text(encoding="utf-8"))
    assert (trait["name"], *map(tuple, (trait["positive"], trait["negative"]))) == ("hedging", DOUBT, EASE)


@pytest.mark.parametrize("line", [DOUBT[0], DOUBT[2], EASE[1], NEUTRAL, ""])
def test_the_shipped_model_follows_the_line(line: str) -> None:
    lm = sk.load_model("pocket:instructable")
    torch.manual_seed(0)
    asked = [question(p) for p in InstructedPrompts(line=line).read({"test": 8}, 0)]
    scores = ask.score(PocketTraitJudge(), sampled(lm.model, lm.tokenizer, asked, 140))
    trait, coherence = (sum(score[name] for score in scores) / len(scores) for name in ("trait", "coherence"))
    assert trait > 85 if line in DOUBT else trait < 10
    assert coherence > 90
