"""Points from servers that fail, in batches, under a cap, and in two processes: nothing is lost or paid twice."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from llm_scorer import scoring
from llm_server import KEY
from steerkit_plugins.judges.llm_score.calibration import NUMBERS
from steerkit_plugins.judges.llm_score.judge import LLMScoreJudge

from steerkit.errors import SteerkitError

OTHERS = [f"Text number {n}." for n in range(5)]
ODD = "The odd one."
TRIES = {f"Answer with the number {number} and nothing else.": 1 for number in NUMBERS}
PRICE = 100 * 2.5e-6 + 100 * 10e-6  # dollars that the server charges for an answer, whatever was expected


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def judge_at(url: str, folder: Path, **options: Any) -> LLMScoreJudge:
    judge = LLMScoreJudge(base_url=url, **{"max_retries": 1, "timeout": 20, **options})
    judge.open(folder, lambda done, total: None)
    return judge


def points(judge: LLMScoreJudge, texts: list[str]) -> list[float]:
    return [row["coherence"] for row in judge.score(texts)]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("status:429", "1 × rate limit .*: lower max_concurrency, raise max_retries"),
        ("status:500", "1 × server error .*HTTP 500"),
        ("status:400", r"1 × bad request .*method: number \(llm-score\)"),
        ("hang:9", "1 × timeout: raise timeout"),
        ("close", r"1 × connection \(peer closed connection"),
        ("html", "1 × no completion"),
    ],
)
def test_a_request_without_an_answer(tmp_path: Path, fault: str, kind: str) -> None:
    with scoring() as (url, state, _):
        state.faults = {ODD: [fault] * 2}
        patience: dict[str, Any] = {"timeout": 2, "max_retries": 0} if fault.startswith("hang") else {}
        with pytest.raises(SteerkitError, match=rf"1 of 6 scores have no usable answer(.|\n)*{kind}") as caught:
            judge_at(url, tmp_path, unusable="leave-out", **patience).score([*OTHERS, ODD])
        assert KEY not in str(caught.value)
        state.faults = {}
        assert len(set(points(judge_at(url, tmp_path), [*OTHERS, ODD]))) == 2
        assert state.paid == {**dict.fromkeys([*OTHERS, ODD], 1), **TRIES}
    assert KEY.encode() not in (tmp_path / "answers.jsonl").read_bytes()


def test_one_failure_is_tried_again(tmp_path: Path) -> None:
    with scoring() as (url, state, _):
        state.faults = {ODD: ["status:429:1"], next(iter(TRIES)): ["status:500"]}
        assert points(judge_at(url, tmp_path), [ODD]) == pytest.approx([(12 * 0.6 + 13 * 0.3) / 0.9])


def test_a_batch_gives_what_single_requests_give(tmp_path: Path) -> None:
    with scoring() as (url, state, _):
        judge = judge_at(url, tmp_path / "a", batch=True, poll_seconds=0.05)
        found = points(judge, OTHERS)
        assert len(state.batches) == 1 and judge.notes()["asked_now"] == len(OTHERS) + len(TRIES)
        assert sorted(body["messages"][0]["content"] for body in state.bodies) == sorted(TRIES)  # these go directly
        assert state.paid == {**dict.fromkeys(OTHERS, 1), **TRIES}
        assert found == points(judge_at(url, tmp_path / "b"), OTHERS)
        again = judge_at(url, tmp_path / "a")
        assert points(again, OTHERS) == found and again.notes()["asked_now"] == 0


def test_one_request_of_a_batch_fails(tmp_path: Path) -> None:
    with scoring() as (url, state, _):
        state.faults = {ODD: ["500"]}
        options = {"batch": True, "poll_seconds": 0.05}
        with pytest.raises(SteerkitError, match=r"1 of 6 scores(.|\n)*1 × batch \(no luck\)"):
            judge_at(url, tmp_path, **options).score([*OTHERS, ODD])
        assert len(points(judge_at(url, tmp_path, **options), [*OTHERS, ODD])) == 6
        assert state.paid == {**dict.fromkeys([*OTHERS, ODD], 1), **TRIES}


def test_the_cap_is_kept_before_and_midway(tmp_path: Path) -> None:
    texts = [f"Text number {n}." for n in range(10)]
    with scoring() as (url, state, _):
        judge_at(url, tmp_path).score(texts[:1])  # and the tries
        cost, spent = judge_at(url, tmp_path).estimate(texts)["dollars"], 4 * PRICE
        with pytest.raises(SteerkitError, match=r"9 requests to gpt-4o would cost about \$0.*Nothing was sent"):
            judge_at(url, tmp_path, max_cost=spent + cost / 2).score(texts)
        assert state.asked.total() == 4
        with pytest.raises(SteerkitError, match=r"× max_cost: raise max_cost to go on"):
            judge_at(url, tmp_path, max_cost=spent + 3.9 * PRICE, max_concurrency=1).score(texts)
        assert 4 + 3 <= state.paid.total() < 4 + 9
        judge = judge_at(url, tmp_path, max_cost=1)
        assert len(points(judge, texts)) == 10
        assert state.paid == {**dict.fromkeys(texts, 1), **TRIES}
        assert judge.notes()["dollars_in_all"] == pytest.approx(13 * PRICE)


SECOND = """
import sys
from pathlib import Path
from steerkit_plugins.judges.llm_score.judge import LLMScoreJudge
judge = LLMScoreJudge(base_url=sys.argv[1], max_concurrency=2)
judge.open(Path(sys.argv[2]), lambda done, total: None)
print(judge.score([f"Text number {n}." for n in range(5)]))
"""


def test_two_processes_share_answers_but_not_at_once(tmp_path: Path) -> None:
    with scoring() as (url, state, _):
        state.faults = {OTHERS[4]: ["slow:3"]}
        command = [sys.executable, "-c", SECOND, url, str(tmp_path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        while not state.asked[OTHERS[4]]:
            time.sleep(0.05)
        with pytest.raises(SteerkitError, match="another process is asking with these answers; wait for it, or name"):
            judge_at(url, tmp_path).score([ODD])
        said, _ = process.communicate()
        assert json.loads(said.replace("'", '"')) == judge_at(url, tmp_path).score(OTHERS)
        assert state.paid == {**dict.fromkeys(OTHERS, 1), **TRIES}
