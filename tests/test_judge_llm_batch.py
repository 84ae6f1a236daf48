"""The Batch API: submitted once, collected by whoever comes later."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from llm_server import KEY, serving
from steerkit_plugins.judges.llm.judge import LLMJudge

from steerkit.errors import SteerkitError

TEXTS = [f"Text {n}. Wait, no." for n in range(6)]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def judge_at(url: str, folder: Path, **options: Any) -> LLMJudge:
    judge = LLMJudge(
        base_url=url, **{"batch": True, "poll_seconds": 0.05, "format": "structured", "max_retries": 0, **options}
    )
    judge.open(folder, lambda done, total: None)
    return judge


def test_a_batch_gives_what_single_requests_give(tmp_path: Path) -> None:
    with serving() as (url, state):
        state.polls = 3
        found = judge_at(url, tmp_path / "a").annotate(TEXTS)
        assert state.paid == dict.fromkeys(TEXTS, 1) and len(state.batches) == 1
        assert not state.bodies  # nothing went the direct way
        assert found == judge_at(url, tmp_path / "b", batch=False).annotate(TEXTS)
        judge = judge_at(url, tmp_path / "a", batch=False)
        judge.annotate(TEXTS)
        assert judge.notes()["asked_now"] == 0  # either way, an answer is an answer


def test_the_bar_moves_while_a_batch_is_under_way(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    with serving() as (url, state):
        state.polls = 3
        judge = judge_at(url, tmp_path)
        judge.open(tmp_path, lambda done, total: seen.append((done, total)))
        judge.annotate(TEXTS)
    assert seen == [(1, 6), (2, 6), (6, 6)]


def test_the_form_is_found_out_with_one_direct_request(tmp_path: Path) -> None:
    with serving() as (url, state):
        state.structured = False
        assert [len(s) for s in judge_at(url, tmp_path, format="auto").annotate(TEXTS)] == [2] * 6
        assert len(state.bodies) == 1 and state.asked.total() == 7


KILLED = """
import sys
from pathlib import Path
from steerkit_plugins.judges.llm.judge import LLMJudge
judge = LLMJudge(base_url=sys.argv[1], batch=True, poll_seconds=0.05, format="structured")
judge.open(Path(sys.argv[2]), lambda done, total: None)
judge.annotate([f"Text {n}. Wait, no." for n in range(6)])
"""


def test_submitted_killed_and_collected(tmp_path: Path) -> None:
    path = tmp_path / "batches.jsonl"
    with serving() as (url, state):
        state.polls = 10**9
        process = subprocess.Popen([sys.executable, "-c", KILLED, url, str(tmp_path)])
        while not (state.batches and state.batches["batch-0"]["looks"] > 1):
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert [sorted(json.loads(line)) for line in path.read_text().splitlines()] == [
            ["file", "keys", "model"],
            ["batch", "file"],
        ]
        state.polls = 1
        found = judge_at(url, tmp_path).annotate([*TEXTS, "One more. Wait."])  # which goes in a second batch
        assert [len(s) for s in found] == [2] * 7
        assert state.paid == dict.fromkeys([*TEXTS, "One more. Wait."], 1) and len(state.batches) == 2
        assert judge_at(url, tmp_path).annotate(TEXTS) == found[:6]
        assert len(state.batches) == 2
    assert KEY not in path.read_text()


def test_killed_between_submitting_and_noting_it(tmp_path: Path) -> None:
    """The server has the batch, the folder has the uploaded file only."""
    path = tmp_path / "batches.jsonl"
    with serving() as (url, state):
        judge_at(url, tmp_path).annotate(TEXTS)
        path.write_text(path.read_text().splitlines()[0] + "\n")
        (tmp_path / "answers.jsonl").unlink()
        assert len(judge_at(url, tmp_path).annotate(TEXTS)) == 6
        assert len(state.batches) == 1 and state.paid == dict.fromkeys(TEXTS, 1)


@pytest.mark.parametrize("status", ["failed", "expired"])
def test_a_batch_that_fails_whole_is_submitted_anew_next_time(tmp_path: Path, status: str) -> None:
    with serving() as (url, state):
        state.faults = {"batch": [status]}
        with pytest.raises(SteerkitError, match=rf"6 × batch \(the batch {status}"):
            judge_at(url, tmp_path).annotate(TEXTS)
        assert len(judge_at(url, tmp_path).annotate(TEXTS)) == 6
        assert len(state.batches) == 2 and state.paid == dict.fromkeys(TEXTS, 1)


def test_one_request_of_a_batch_fails(tmp_path: Path) -> None:
    with serving() as (url, state):
        state.faults = {TEXTS[3]: ["500"]}
        with pytest.raises(SteerkitError, match=r"1 of 6 texts.*\n  1 × batch \(no luck\): see the server's words"):
            judge_at(url, tmp_path).annotate(TEXTS)
        assert [len(s) for s in judge_at(url, tmp_path).annotate(TEXTS)] == [2] * 6
        assert state.paid == dict.fromkeys(TEXTS, 1)


def test_no_batch_without_money_or_server(tmp_path: Path) -> None:
    with serving() as (url, state):
        with pytest.raises(SteerkitError, match="Nothing was sent"):
            judge_at(url, tmp_path, max_cost=1e-4).annotate(TEXTS)
        assert not state.files
    with pytest.raises(SteerkitError, match="6 × connection"):
        judge_at(url, tmp_path).annotate(TEXTS)
