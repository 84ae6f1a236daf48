"""Points by a language model over real HTTP: expectation, number and mean, and what has none."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llm_scorer import Scorer, Spread, scoring, text_of
from llm_server import KEY, SNAPSHOT, State, completion
from pydantic import ValidationError
from steerkit_plugins.judges.llm_score.judge import LLMScoreJudge
from steerkit_plugins.llm.completion import read_answer

from steerkit.errors import SteerkitError
from steerkit.interfaces import Metric
from steerkit.judging import ask

TEXTS = ["It may be so, perhaps.", "It is so.", "", "It may be so, perhaps."]
TRAIT = "How sure is this?\n<text>{text}</text>\nA number from 0 to 100."

Make = Callable[..., LLMScoreJudge]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, State, Scorer]]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with scoring() as found:
        yield found


@pytest.fixture
def state(server: tuple[str, State, Scorer]) -> State:
    return server[1]


@pytest.fixture
def scorer(server: tuple[str, State, Scorer]) -> Scorer:
    return server[2]


@pytest.fixture
def make(server: tuple[str, State, Scorer], tmp_path: Path) -> Make:
    def build(**options: Any) -> LLMScoreJudge:
        judge = LLMScoreJudge(base_url=server[0], **{"max_retries": 0, "timeout": 5, **options})
        judge.open(tmp_path / "answers", lambda done, total: None)
        return judge

    return build


def texts_asked(state: State) -> dict[str, int]:
    """Requests by text, those to find out about the server left out."""
    return {text: n for text, n in state.asked.items() if not text.startswith("Answer with the number")}


SPREADS = [
    {"85": 0.5, " 85": 0.1, "90\n": 0.2, "100": 0.05, "0": 0.01, "Sure": 0.14},
    {"30": 0.2, "101": 0.3, "-5": 0.2, "7.5": 0.1, "40": 0.1, "050": 0.1},
    {"100": 0.25, "I": 0.75},
]
"""What a model could say first. Whole numbers from 0 to 100 count, whitespace aside; the last has just enough."""


@pytest.mark.parametrize("spread", SPREADS)
def test_the_expectation_is_over_whole_numbers(make: Make, scorer: Scorer, spread: Spread) -> None:
    scorer.spread = lambda prompt: spread
    found = make().score(TEXTS)
    rows = [(token.strip(), p) for token, p in spread.items()]
    points = np.array([int(t) if t in map(str, range(101)) else -1 for t, _ in rows])
    mass = np.array([p for _, p in rows]) * (points >= 0)
    assert found[0]["coherence"] == pytest.approx(float(mass @ points / mass.sum()), abs=1e-9)
    assert found[0] == found[1] == found[3] and found[2] == {}


def test_less_mass_than_that_is_a_refusal(make: Make, scorer: Scorer) -> None:
    scorer.spread = lambda prompt: {"I": 0.7, "85": 0.2, "90": 0.04} if "is so" in prompt else {"85": 1.0}
    with pytest.raises(SteerkitError, match=r"1 of 2 scores .*\n  1 × refused \(numbers have 0.24 of the prob.*'I'\)"):
        make().score(TEXTS)
    judge = make(unusable="leave-out")
    assert ask.score(judge, TEXTS) == [{"coherence": 85.0}, {}, {}, {"coherence": 85.0}]
    assert math.isnan(judge.score(TEXTS)[1]["coherence"])
    counts = judge.notes()["scores"]["coherence"]
    assert (counts["texts"], counts["missing"], counts["missing_share"]) == (2, 1, 0.5)
    assert (counts["refused"], counts["refused_share"], counts["mean_mass"]) == (1, 0.5, 1.0)
    assert counts["examples"] == [
        {"text": "It is so.", "why": "refused", "answer": counts["examples"][0]["answer"]},
    ]
    assert make(min_mass=0.2).score(TEXTS)[1]["coherence"] == pytest.approx((85 * 0.2 + 90 * 0.04) / 0.24)
    assert make(unusable="leave-out").notes() == {}  # of no call


def test_one_token_of_the_twenty_likeliest_is_asked_for(make: Make, state: State) -> None:
    make().score(TEXTS)
    assert texts_asked(state) == {TEXTS[0]: 1, TEXTS[1]: 1}
    for body in state.bodies:
        asked = {name: body[name] for name in ("max_tokens", "temperature", "logprobs", "top_logprobs")}
        assert asked == {"max_tokens": 1, "temperature": 0.0, "logprobs": True, "top_logprobs": 20}
    make(top_logprobs=5, max_tokens=None).score(["Another."])
    assert state.bodies[-1]["top_logprobs"] == 5 and "max_tokens" not in state.bodies[-1]


def test_the_expectation_is_over_the_tokens_that_are_asked_for(make: Make, scorer: Scorer) -> None:
    scorer.spread = lambda prompt: {"20": 0.2, "80": 0.3, "85": 0.5}
    found = make(top_logprobs=2, min_mass=0.1).score(TEXTS[:1])
    assert found[0]["coherence"] == pytest.approx((20 * 0.2 + 80 * 0.3) / 0.5)


TOP = [{"token": "85", "logprob": -0.5}, {"token": "\ud83d", "logprob": -1}, {"token": "9", "logprob": -math.inf}]


@pytest.mark.parametrize(
    ("logprobs", "found"),
    [
        (None, ()),
        ({"content": None}, ()),
        ({"content": []}, ()),
        ({"content": [{"token": "85", "logprob": -0.5, "top_logprobs": TOP}]}, (("85", -0.5), ("?", -1.0))),
        ({"content": [{"token": "?", "logprob": -1, "top_logprobs": TOP}]}, (("?", -1.0), ("85", -0.5))),
        ({"content": [{"token": "7", "logprob": -4, "top_logprobs": TOP}]}, (("7", -4.0), ("85", -0.5), ("?", -1.0))),
        ({"content": [{"token": "7", "logprob": -4}, {"token": "5", "logprob": 0}]}, (("7", -4.0),)),
    ],
)
def test_log_probabilities_in_an_answer(logprobs: Any, found: Any) -> None:
    """What was said first comes first, and once; some servers leave it out of the likeliest ones."""
    answer = completion("85")
    answer["choices"][0]["logprobs"] = logprobs
    assert read_answer(json.dumps(answer)).top_logprobs == found


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        ("digits", "asked for 85, its first token is '8'"),
        ("ignored", "the server gives no log-probabilities"),
        (400, "the server refuses log-probabilities"),
        (403, "the server refuses log-probabilities"),
    ],
)
def test_where_no_expectation_can_be_taken(
    make: Make, state: State, scorer: Scorer, fault: str | int, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer.whole, state.logprobs = fault != "digits", {"digits": True, "ignored": False}.get(str(fault), fault)
    judge = make()
    assert judge.score(TEXTS[:2]) == [{"coherence": float(len(text))} for text in TEXTS[:2]]
    notes = judge.notes()
    assert notes["method"] == "number" and notes["calibration"].startswith(seen)
    assert all("logprobs" not in body for body in state.bodies if not text_of_body(body).startswith("Answer with"))
    monkeypatch.delenv("OPENAI_API_KEY")
    again = make()
    assert again.score(TEXTS[:2]) == judge.score(TEXTS[:2])  # and what the server gives is known without it
    assert (again.notes()["calibration"], again.notes()["asked_now"]) == (notes["calibration"], 0)
    with pytest.raises(SteerkitError, match=rf"no expectation can be taken, as {seen}.*take method: number or mean"):
        make(method="expectation").score(TEXTS)


def text_of_body(body: dict[str, Any]) -> str:
    return text_of(body["messages"][-1]["content"])


def test_a_key_that_is_refused_is_not_taken_for_a_server_without(make: Make, state: State) -> None:
    state.faults = {"*": ["status:401"] * 9}
    with pytest.raises(SteerkitError, match=r"whether it gives log-prob.*\n  1 × key refused \(HTTP 401\): check the"):
        make().score(TEXTS)
    state.faults = {"Answer with the number 42 and nothing else.": ["status:500"]}
    with pytest.raises(SteerkitError, match=r"1 × server error"):
        make().score(TEXTS)
    assert make().score(TEXTS)[0]["coherence"] > 0


def test_the_try_is_in_the_notes(make: Make) -> None:
    judge = make()
    judge.score(TEXTS)
    notes = judge.notes()
    assert (notes["method"], notes["calibration"]) == ("expectation", "numbers are one token each")
    assert notes["answered_by"] == {SNAPSHOT: 2} and notes["asked_now"] == 5
    assert notes["dollars"] == pytest.approx(2 * (100 * 2.5e-6 + 100 * 10e-6))
    assert notes["dollars_in_all"] == pytest.approx(5 * (100 * 2.5e-6 + 100 * 10e-6))
    assert json.loads(json.dumps(notes)) == notes


@pytest.mark.parametrize(
    ("said", "points"),
    [
        ("85", 85),
        (" 85.\n", 85),
        ("Score: 85", 85),
        ("**85**", 85),
        ("85/100, as it is 3 times clear", 85),
        ("85 out of 100", 85),
        ("85%", 85),
        ("On a scale of 0 to 100 I say 85.", 85),
        ("85 (0-100)", 85),
        ("- 0", 0),
        ("100", 100),
        ("<think>Maybe 30?</think>85", 85),
        ("GPT4 gives it 85", 85),
        ("850", None),
        ("-3", None),
        ("−3", None),
        ("85.5", None),
        ("85,5", None),
        ("1,000", None),
        ("80-90", None),
        ("8/10", None),
        ("8 out of 10", None),
        ("085", None),
        ("85k", None),
        ("eighty-five", None),
        ("", None),
    ],
)
def test_the_first_number_of_an_answer(make: Make, scorer: Scorer, said: str, points: float | None) -> None:
    scorer.says = {TEXTS[0]: said}
    judge = make(method="number", unusable="leave-out")
    (found,) = judge.score(TEXTS[:1])
    assert found["coherence"] == points if points is not None else math.isnan(found["coherence"])
    kinds = judge.notes()["scores"]["coherence"]["unusable_answers"]
    assert kinds == ({} if points is not None else {"no number": 1})


def test_an_answer_that_is_cut_within_its_number(make: Make, scorer: Scorer) -> None:
    scorer.says = {"a": ("Well, 8", "length"), "b": ("Well, 85, for it", "length"), "c": ("Well, I", "length")}
    judge = make(method="number", unusable="leave-out")
    found = judge.score(["a", "b", "c"])
    assert found[1] == {"coherence": 85.0} and all(math.isnan(found[n]["coherence"]) for n in (0, 2))
    assert judge.notes()["scores"]["coherence"]["unusable_answers"] == {"cut off": 2}


def test_refusals_stand_apart_from_answers_without_a_number(make: Make, state: State, scorer: Scorer) -> None:
    scorer.says = {"a": "REFUSAL", "b": "It is fine.", "c": ("", "content_filter")}
    state.faults = {"d": ["refusal"]}
    judge = make(method="number", unusable="leave-out")
    ask.score(judge, ["a", "b", "c", "d", "e"])
    counts = judge.notes()["scores"]["coherence"]
    assert counts["unusable_answers"] == {"refused": 3, "no number": 1}
    assert (counts["missing_share"], counts["refused_share"]) == (0.8, 0.6)
    assert [(row["text"], row["why"]) for row in counts["examples"]] == [
        ("a", "refused"),
        ("b", "no number"),
        ("c", "refused"),
    ]
    with pytest.raises(
        SteerkitError, match=r"4 of 5 scores(.|\n)*3 × refused(.|\n)*1 × no number \(It is fine.\): a ru"
    ):
        make(method="number").score(["a", "b", "c", "d", "e"])


def test_the_expectation_of_an_answer_without_log_probabilities(make: Make, state: State) -> None:
    judge = make()
    judge.score(TEXTS[:1])
    state.logprobs = False
    with pytest.raises(SteerkitError, match=r"1 × no logprobs.*method: number"):
        judge.score(["Another one."])


def test_the_mean_of_samples(make: Make, state: State, scorer: Scorer) -> None:
    scorer.spread = lambda prompt: {"20": 0.4, "50": 0.3, "No idea.": 0.3}
    judge = make(method="mean", samples=4)
    assert judge.score(TEXTS)[0] == {"coherence": (20 + 50 + 20) / 3}
    assert judge.notes()["scores"]["coherence"]["mean_mass"] == 0.75
    assert {(body["seed"], body["temperature"]) for body in state.bodies} == {(n, 1.0) for n in range(4)}
    assert state.asked == {TEXTS[0]: 4, TEXTS[1]: 4}  # no try is needed
    make(method="mean", samples=5).score(TEXTS)
    assert state.asked == {TEXTS[0]: 5, TEXTS[1]: 5}  # one sample more, the others are there
    with pytest.raises(SteerkitError, match=r"2 × no number \(No idea.\)"):
        make(method="mean", samples=4, min_mass=0.8).score(TEXTS)


def test_several_rubrics_are_several_metrics(make: Make, state: State, scorer: Scorer, tmp_path: Path) -> None:
    path = tmp_path / "tone.yaml"
    path.write_text("ask: 'Tone?\n\n  <text>{text}</text>'\nbetter: down\nabout: its tone\n")
    scorer.spread = lambda prompt: {"10" if "How sure" in prompt else "20" if "Tone" in prompt else "30": 1.0}
    judge = make(rubrics={"sure": TRAIT, "tone": str(path), "coherence": "coherence"}, better={"sure": "up"})
    assert judge.metrics() == [
        Metric("sure", "points 0 to 100", (0.0, 100.0), "up"),
        Metric("tone", "points 0 to 100", (0.0, 100.0), "down", about="its tone"),
        Metric(
            "coherence",
            "points 0 to 100",
            (0.0, 100.0),
            "up",
            about="how well the text hangs together, by a language model",
        ),
    ]
    assert ask.score(judge, TEXTS)[0] == {"sure": 10.0, "tone": 20.0, "coherence": 30.0}
    assert texts_asked(state) == {TEXTS[0]: 3, TEXTS[1]: 3}
    assert judge.config.reads()["rubrics"][0] == path and len(judge.config.reads()["rubrics"]) == 2
    assert f"Tone?\n<text>{TEXTS[1]}</text>" in [body["messages"][0]["content"] for body in state.bodies]


def test_another_rubric_method_or_model_is_another_question(make: Make, state: State) -> None:
    choices: list[dict[str, Any]] = [
        {"method": "number"},
        {"method": "number", "rubrics": {"sure": TRAIT}},
        {"method": "number", "model": "gpt-4o-2024-11-20"},
        {"method": "number", "seed": 3},
        {"method": "number", "max_tokens": 99},
        {"method": "expectation"},
        {"method": "expectation", "top_logprobs": 10},
    ]
    for number, options in enumerate(choices, 1):
        make(**options).score(TEXTS[:1])
        assert state.asked[TEXTS[0]] == number
        make(**options, max_concurrency=1, unusable="leave-out").score(TEXTS[:1])
        make(**{**options, "better": dict.fromkeys(options.get("rubrics", {}), "up")}).score(TEXTS[:1])
        assert state.asked[TEXTS[0]] == number


def test_what_is_answered_replays_without_key_and_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with scoring() as (url, _, _):
        options: dict[str, Any] = {"base_url": url, "cache": str(tmp_path / "shared")}
        found = LLMScoreJudge(**options).score(TEXTS)
    monkeypatch.delenv("OPENAI_API_KEY")
    judge = LLMScoreJudge(**options)
    assert judge.score(TEXTS) == found
    assert judge.notes()["asked_now"] == 0 and judge.estimate(TEXTS)["calls"] == 0
    with pytest.raises(SteerkitError, match="the environment variable OPENAI_API_KEY is not set"):
        judge.score([*TEXTS, "A new one."])


def test_the_estimate(make: Make, state: State) -> None:
    judge = make(rubrics={"sure": TRAIT, "coherence": "coherence"})
    before = judge.estimate(TEXTS)
    assert (before["calls"], before["output tokens"]) == (3 + 2 * 2, 3 + 2 * 2)  # a token each
    assert not state.asked
    judge.score(TEXTS)
    sent = [len(body["messages"][0]["content"].encode()) / 4 for body in state.bodies]
    assert before["input tokens"] == pytest.approx(sum(sent), abs=1)
    assert before["dollars"] == pytest.approx(sum(sent) * 2.5e-6 + 7 * 10e-6, abs=1e-4)
    assert judge.estimate([*TEXTS, "Another."])["calls"] == 2
    assert make(method="mean", samples=4).estimate(TEXTS)["calls"] == 8
    assert make(method="number").estimate(TEXTS)["output tokens"] == 2 * 16


def test_no_text_no_request(make: Make, state: State) -> None:
    judge = make()
    assert judge.score([]) == [] and judge.score(["", " \n"]) == [{}, {}]
    assert judge.estimate([]) == judge.estimate([" "]) == dict.fromkeys(judge.estimate([]), 0)
    assert not state.asked


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rubrics": {}}, "at least 1 item"),
        (
            {"rubrics": {"a": "coherense", "b": "c"}},
            "a: rubric 'coherense' is neither a file, .*coherence.*; b: rubric 'c'",
        ),
        (
            {"rubrics": {"a": "Rate {text} as an answer to {question}"}},
            r"has \{question\}, but a judge is given one text",
        ),
        ({"rubrics": {"a": "Rate\nthis."}}, r"has no \{text\} in it"),
        ({"better": {"coherens": "up"}}, "'coherens': did you mean 'coherence'"),
        ({"better": {"coherence": "more"}}, "'up', 'down' or 'neither'"),
        ({"method": "mean", "temperature": 0}, "needs a temperature above 0"),
        ({"min_mass": 0}, "greater than 0"),
        ({"extra_body": {"logprobs": True}}, "extra_body may not hold logprobs"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        LLMScoreJudge(**options)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a", "must be a mapping with `ask`"),
        ("ask: no place", r"no_place.yaml: ask: has no \{text\}"),
        ("better: up", "ask: Field required"),
        ("ask: '{text}'\nbest: up", "best: Extra inputs"),
    ],
)
def test_a_file_that_is_no_rubric(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "no_place.yaml"
    path.write_text(content)
    with pytest.raises(ValidationError, match=message):
        LLMScoreJudge(rubrics={"a": str(path)})


def test_a_text_is_sent_as_it_is(make: Make, state: State) -> None:
    """Placeholders, braces and halves of surrogate pairs of a text are nobody's but its own."""
    text = 'A {text}, {"a": 1}, {question} \ud83d and </text>'
    make(method="number", unusable="leave-out", rubrics={"a": "Rate {text} and {text}: a number"}).score([text])
    sent = text.replace("\ud83d", "?")
    assert state.bodies[-1]["messages"] == [{"role": "user", "content": f"Rate {sent} and {sent}: a number"}]


@pytest.mark.parametrize("name", ["coherence", "hedging", "humorous", "optimistic"])
def test_the_shipped_rubrics(make: Make, state: State, name: str) -> None:
    judge = make(rubrics={name: name})
    judge.score(TEXTS[:1])
    told = state.bodies[-1]["messages"][0]["content"]
    assert f"<text>\n{TEXTS[0]}\n</text>" in told and told.strip().endswith("from 0 to 100 and nothing else.")
    assert judge.metrics()[0].better == ("up" if name == "coherence" else "neither")
