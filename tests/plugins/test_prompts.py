"""Prompt sources: jsonl files and `datasets`, offline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from steerkit_plugins.prompts.dataset import DatasetPrompts
from steerkit_plugins.prompts.jsonl import JsonlPrompts

from steerkit.errors import InputError, SteerkitError

COUNTS = {"extract": 2, "choose": 1, "test": 1}
ROWS = [{"id": f"q{i}", "prompt": f"question {i}?", "answer": str(i), "level": "easy"} for i in range(6)]


def write(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def test_jsonl(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", *map(json.dumps, ROWS))
    found = JsonlPrompts(path=path).read(COUNTS, seed=0)
    assert sorted(p.split for p in found) == ["choose", "extract", "extract", "test"]
    by_id = {row["id"]: row for row in ROWS}
    assert all((p.prompt, p.answer) == (by_id[p.id]["prompt"], by_id[p.id]["answer"]) for p in found)


def test_every_wrong_line_is_named(tmp_path: Path) -> None:
    lines = [json.dumps(ROWS[0]), "{oops", json.dumps({"prompt": " "}), json.dumps(["x"]), json.dumps({"promt": "x"})]
    with pytest.raises(InputError) as caught:
        JsonlPrompts(path=write(tmp_path / "p.jsonl", *lines)).read(COUNTS, seed=0)
    assert sorted(p.where.rsplit(":", 1)[1] for p in caught.value.problems) == ["2", "3", "4", "5"]
    assert "needs a text under 'prompt'" in str(caught.value)


def test_files_without_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SteerkitError, match=rf"none\.jsonl: no such prompts file; the path is relative to {tmp_path}"):
        JsonlPrompts(path="none.jsonl").read(COUNTS, seed=0)
    with pytest.raises(SteerkitError, match=r"p\.jsonl: is empty; each line is a JSON object such as"):
        JsonlPrompts(path=write(tmp_path / "p.jsonl")).read(COUNTS, seed=0)
    with pytest.raises(SteerkitError, match="too few prompts of 1 prompts"):
        JsonlPrompts(path=write(tmp_path / "p.jsonl", json.dumps(ROWS[0]))).read(COUNTS, seed=0)


def test_a_local_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    path = write(tmp_path / "p.jsonl", *map(json.dumps, ROWS))
    options = {"path": "json", "data_files": path, "answer": "answer"}
    found = DatasetPrompts(**options).read(COUNTS, seed=0)
    assert sorted(p.split for p in found) == ["choose", "extract", "extract", "test"]
    assert all(p.prompt == f"question {p.answer}?" for p in found)
    with pytest.raises(SteerkitError, match="data set json: no column 'question'; it has id, prompt, answer, level"):
        DatasetPrompts(**options, prompt="question").read(COUNTS, seed=0)


def test_a_data_set_that_is_not_there() -> None:
    with pytest.raises(SteerkitError, match="data set someone/none: can't be loaded: "):
        DatasetPrompts(path="someone/none").read(COUNTS, seed=0)
