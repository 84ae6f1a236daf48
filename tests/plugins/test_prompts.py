"""Prompt sources: jsonl files and `datasets`, offline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from steerkit_plugins.pocket.source import PocketPrompts
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


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """datasets keeps what it reads under the test's folder."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def local_file(folder: Path, kind: str) -> str:
    import pandas

    path, frame = folder / f"p.{kind}", pandas.DataFrame(ROWS)
    if kind == "json":
        return write(path, *map(json.dumps, ROWS))
    frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path)
    return str(path)


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("kind", ["json", "csv", "parquet"])
def test_a_local_data_set(tmp_path: Path, kind: str) -> None:
    files = local_file(tmp_path, kind)
    source = DatasetPrompts(path=kind, data_files=files, answer="answer", category="level", id="id")
    found = source.read(COUNTS, seed=0)
    assert sorted(p.split for p in found) == ["choose", "extract", "extract", "test"]
    by_id = {row["id"]: row for row in ROWS}
    for prompt in found:
        row = by_id[prompt.id]
        assert (prompt.prompt, prompt.answer, prompt.category) == (row["prompt"], row["answer"], "easy")
    assert source.correct(found[0], found[0].answer) is None  # it knows no way to compare answers
    with pytest.raises(SteerkitError, match=f"data set {kind}: no column 'question'; it has id, prompt, answer, level"):
        DatasetPrompts(path=kind, data_files=files, prompt="question").read(COUNTS, seed=0)
    with pytest.raises(SteerkitError, match="no columns 'question', 'solution'; it has id, prompt"):
        DatasetPrompts(path=kind, data_files=files, prompt="question", answer="solution").read(COUNTS, seed=0)


@pytest.mark.usefixtures("cache")
def test_a_folder_with_splits_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    write(folder / "train.jsonl", *map(json.dumps, ROWS))
    write(folder / "test.jsonl", *(json.dumps({"prompt": f"held out {i}?"}) for i in range(8)))
    found = DatasetPrompts(path=str(folder), split="test[:5]").read(COUNTS, seed=0)
    assert all(p.prompt.startswith("held out") for p in found)
    with pytest.raises(SteerkitError, match='can\'t be loaded: Unknown split "dev"'):
        DatasetPrompts(path=str(folder), split="dev").read(COUNTS, seed=0)
    with pytest.raises(SteerkitError, match="too few prompts of 2 prompts"):
        DatasetPrompts(path=str(folder), split="test[:2]").read(COUNTS, seed=0)


@pytest.mark.usefixtures("cache")
def test_data_that_is_not_there_or_empty(tmp_path: Path) -> None:
    with pytest.raises(SteerkitError, match=r"data set someone/none: can't be loaded: .*\n.*HF_HUB_OFFLINE.* is set"):
        DatasetPrompts(path="someone/none").read(COUNTS, seed=0)
    with pytest.raises(SteerkitError, match="data set csv: can't be loaded: "):
        DatasetPrompts(path="csv", data_files=str(tmp_path / "none.csv")).read(COUNTS, seed=0)
    rows = [*ROWS, {"id": "q9", "prompt": " "}]
    files = write(tmp_path / "p.jsonl", *map(json.dumps, rows))
    with pytest.raises(SteerkitError, match="prompt 6: has no text under 'prompt'"):
        DatasetPrompts(path="json", data_files=(files,)).read(COUNTS, seed=0)


def test_pocket_answers_are_checked() -> None:
    source = PocketPrompts()
    (prompt,) = source.read({"test": 1}, seed=0)
    right = f" Ann has 3 apples. Ann has {prompt.answer} apples."
    assert source.correct(prompt, right) == 1.0
    assert source.correct(prompt, f" Ann has {prompt.answer}1 apples.") == 0.0
    assert source.correct(prompt, "") == 0.0
