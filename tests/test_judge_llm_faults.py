"""Servers that fail: nothing is lost, nothing is paid twice, the key is in no file, log or error."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import pytest
from llm_server import KEY, State, serving
from steerkit_plugins.judges.llm.judge import LLMJudge

from steerkit.errors import SteerkitError

OTHERS = [f"Text {n}. Wait, no." for n in range(5)]
ODD = "The odd one. Wait, no."


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    caplog.set_level(logging.DEBUG)


def judge_at(url: str, folder: Path, **options: Any) -> LLMJudge:
    judge = LLMJudge(base_url=url, **{"max_retries": 1, "timeout": 20, "format": "structured", **options})
    judge.open(folder, lambda done, total: None)
    return judge


def check_no_key(folder: Path, *texts: str) -> None:
    for path in folder.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path
    for text in texts:
        assert KEY not in text


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("status:401", r"1 × key refused \(HTTP 401\): check the key in the variable that api_key_env names"),
        ("status:404", r"1 × not found \(HTTP 404: no luck for Bearer \[key\]\): check model and base_url"),
        ("status:429", "1 × rate limit .*: lower max_concurrency, raise max_retries"),
        ("status:429:insufficient_quota", "1 × no credit"),
        ("status:500", "1 × server error .*HTTP 500: no luck for Bearer"),
        ("status:400", r"1 × bad request \(HTTP 400: no luck"),
        ("hang:9", "1 × timeout: raise timeout"),
        ("close", r"1 × connection \(peer closed connection"),
        ("html", r"1 × no completion \(the body is no JSON\): base_url must be"),
        ("shape", "1 × no completion .the body is JSON, but no chat completion"),
    ],
)
def test_a_request_without_an_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: str, kind: str) -> None:
    with serving() as (url, state):
        state.faults = {ODD: [fault] * 2}
        patience: dict[str, Any] = {"timeout": 3, "max_retries": 0} if fault.startswith("hang") else {}
        with pytest.raises(SteerkitError, match=kind) as caught:
            judge_at(url, tmp_path, **patience).annotate([*OTHERS, ODD])
        assert "1 of 6 texts have no usable answer; what was answered is kept and not paid" in str(caught.value)
        state.faults = {}
        found = judge_at(url, tmp_path).annotate([*OTHERS, ODD])
        assert [len(spans) for spans in found] == [2] * 6
        assert state.paid == dict.fromkeys([*OTHERS, ODD], 1)
        assert all(state.asked[text] == 1 for text in OTHERS)
    check_no_key(tmp_path, str(caught.value), "".join(traceback.format_exception(caught.value)), caplog.text)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("schema", r"1 × not the form \(\{\"parts\": \[\]\}\)"),
        ("prose", "1 × not the form .Sure!"),
        ("refusal", r"1 × refused \(I can't help with that.\)"),
        ("length", "1 × cut off.*raise max_tokens"),
    ],
)
def test_an_answer_that_can_not_be_used_is_paid_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: str, kind: str
) -> None:
    with serving() as (url, state):
        state.faults = {ODD: [fault]}
        for _ in range(2):
            with pytest.raises(SteerkitError, match=kind) as caught:
                judge_at(url, tmp_path).annotate([*OTHERS, ODD])
        judge = judge_at(url, tmp_path, unusable="leave-out")
        assert [len(spans) for spans in judge.annotate([*OTHERS, ODD])] == [2] * 5 + [0]
        assert sum(judge.notes()["unusable_answers"].values()) == 1
        assert state.paid == dict.fromkeys([*OTHERS, ODD], 1)
    check_no_key(tmp_path, str(caught.value), caplog.text)


def test_an_answer_that_repeats_the_key_is_read_and_kept_without_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with serving() as (url, state):
        state.faults = {ODD: ["echo"]}
        assert [len(spans) for spans in judge_at(url, tmp_path).annotate([*OTHERS, ODD])] == [2] * 6
        assert state.paid == dict.fromkeys([*OTHERS, ODD], 1)
    assert "Bearer [key]" in (tmp_path / "answers.jsonl").read_text()
    check_no_key(tmp_path, caplog.text)


@pytest.mark.parametrize(
    ("fault", "wait"), [("status:429:1", 1.0), ("date:2", 0.9), ("status:500", 0.3), ("close", 0.3)]
)
def test_one_failure_is_tried_again_after_a_wait(tmp_path: Path, fault: str, wait: float) -> None:
    with serving() as (url, state):
        state.faults = {ODD: [fault]}
        assert len(judge_at(url, tmp_path).annotate([ODD])[0]) == 2
        first, second = state.times
        assert wait <= second - first < 30
        assert state.paid == {ODD: 1}


def test_asking_on_stops_when_it_is_no_use(tmp_path: Path) -> None:
    texts = [f"Text {n}." for n in range(60)]
    with serving() as (url, state):
        for fault, most in (("status:401", 2), ("html", 24)):
            state.asked.clear()
            state.faults = {"*": [fault] * 60}
            with pytest.raises(SteerkitError, match="not asked: left alone when it was clear"):
                judge_at(url, tmp_path, max_concurrency=2).annotate(texts)
            assert state.asked.total() <= most
    with pytest.raises(SteerkitError, match=r"connection .*: check base_url, and that the server runs"):
        judge_at(url, tmp_path, max_retries=0).annotate(texts[:3])


def test_a_variable_that_holds_more_than_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\nexport")
    with serving() as (url, state):
        with pytest.raises(SteerkitError, match="OPENAI_API_KEY holds more than a key") as caught:
            judge_at(url, tmp_path).annotate([ODD])
        assert KEY not in str(caught.value) and not state.asked


KILLED = """
import sys
from pathlib import Path
from steerkit_plugins.judges.llm.judge import LLMJudge
judge = LLMJudge(base_url=sys.argv[1], max_concurrency=2, format="structured")
judge.open(Path(sys.argv[2]), lambda done, total: None)
judge.annotate([f"Text {n}. Wait, no." for n in range(10)])
"""


def wait_for(what: Any, state: State) -> None:
    for _ in range(2400):
        if what(state):
            return
        time.sleep(0.05)
    raise AssertionError(f"never happened; asked {state.asked}")


def test_killed_midway_only_what_is_unanswered_is_asked(tmp_path: Path) -> None:
    texts = [f"Text {n}. Wait, no." for n in range(10)]
    with serving() as (url, state):
        state.faults = {texts[5]: ["hang:30"], texts[6]: ["hang:30"]}
        process = subprocess.Popen([sys.executable, "-c", KILLED, url, str(tmp_path)])
        wait_for(lambda s: s.asked[texts[5]] and s.asked[texts[6]], state)
        time.sleep(0.2)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        with (tmp_path / "answers.jsonl").open("a") as file:
            file.write('{"key": "torn')
        found = judge_at(url, tmp_path).annotate(texts)
        assert [len(spans) for spans in found] == [2] * 10
        assert state.paid == dict.fromkeys(texts, 1)
        assert {text: n for text, n in state.asked.items() if n > 1} == {texts[5]: 2, texts[6]: 2}


def test_two_processes_do_not_share_answers_at_once(tmp_path: Path) -> None:
    with serving() as (url, state):
        state.faults = {"*": ["hang:30"] * 2}
        process = subprocess.Popen([sys.executable, "-c", KILLED, url, str(tmp_path)])
        wait_for(lambda s: s.asked.total() == 2, state)
        with pytest.raises(SteerkitError, match="another process is asking with these answers; wait for it, or name"):
            judge_at(url, tmp_path).annotate(["A text."])
        process.kill()
        process.wait()


def test_the_cap_is_kept_before_and_midway(tmp_path: Path) -> None:
    texts = [f"Text {n}. Wait, no." for n in range(10)]
    with serving() as (url, state):
        judge = judge_at(url, tmp_path)
        cost = judge.estimate(texts[:1])["dollars"]
        with pytest.raises(
            SteerkitError, match=r"10 requests to gpt-4o would cost about \$0.*max_cost is.*Nothing was sent"
        ):
            judge_at(url, tmp_path, max_cost=5 * cost).annotate(texts)
        assert state.asked.total() == 0
        state.usage = 1000  # tokens each way that an answer is charged, far more than was expected
        paid = 1000 * 2.5e-6 + 1000 * 10e-6
        with pytest.raises(SteerkitError, match="× max_cost: raise max_cost to go on"):
            judge_at(url, tmp_path, max_cost=3.5 * paid, max_concurrency=1).annotate(texts)
        assert state.paid.total() == 3
        with pytest.raises(SteerkitError, match=r"with \$0.04 spent before; max_cost is \$0.04"):
            judge_at(url, tmp_path, max_cost=3.05 * paid).annotate(texts)
        assert len(judge_at(url, tmp_path, max_cost=1).annotate(texts)) == 10
        assert state.paid == dict.fromkeys(texts, 1)
