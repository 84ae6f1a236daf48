"""Prompt sources: jsonl files and `datasets`, offline."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from steerkit_plugins.pocket.source import PocketPrompts
from steerkit_plugins.prompts.dataset import DatasetPrompts
from steerkit_plugins.prompts.jsonl import JsonlPrompts

from steerkit.data.chats import to_json
from steerkit.data.trace import Prompt
from steerkit.errors import InputError, SteerkitError

COUNTS = {"extract": 2, "choose": 1, "test": 1}
ROWS = [{"id": f"q{i}", "prompt": f"question {i}?", "answer": str(i), "level": "easy"} for i in range(6)]


def write(path: Path, *lines: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
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
    for said in ("'prompt' is empty", "message 1 must be a mapping", "has no 'prompt' (a text, or messages)"):
        assert said in str(caught.value)


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
    with pytest.raises(SteerkitError, match=r"p\.jsonl:7: 'prompt' is empty"):
        DatasetPrompts(path="json", data_files=(files,)).read(COUNTS, seed=0)


CELLS = [
    ("007", "2", "a"),
    ("1e5", "NA", "b"),
    ("008", "null", "c"),
    ("x", "None", "d"),
    ("y", "2.50", "e"),
    ("z", "", "f"),
    ("w", " True ", 'g "quoted", and\r\n2024-01-01'),
]
ALL = {"extract": len(CELLS) - 2, "choose": 1, "test": 1}


def cells(prompts: list[Prompt]) -> list[tuple[str, str, object]]:
    return sorted((p.id, p.answer, p.prompt) for p in prompts)


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_cells_of_csv_are_kept_as_written(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "p.csv"
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file).writerows([("id", "answer", "prompt"), *CELLS])
    found = DatasetPrompts(path="csv", data_files=str(path), answer="answer", id="id").read(ALL, seed=0)
    assert cells(found) == sorted(CELLS)
    tabs = tmp_path / "mine" / "train.tsv"
    tabs.parent.mkdir()
    tabs.write_text("id\tprompt\n007\ta,b\n08\tNA\n9\tc\n")
    found = DatasetPrompts(path=str(tabs.parent), id="id").read({"extract": 1, "choose": 1, "test": 1}, seed=0)
    assert cells(found) == [("007", "", "a,b"), ("08", "", "NA"), ("9", "", "c")]


JSON_LINES = """\
{"id": "007", "answer": 2, "prompt": "a"}
{"id": 8, "answer": 2.0, "prompt": "b"}
{"id": 9.50, "answer": 1e5, "prompt": "c"}
{"id": "2024-01-01", "answer": true, "prompt": "d"}
{"id": "NA", "answer": null, "prompt": "e", "level": [1]}
{"id": null, "answer": "2", "prompt": "f"}
"""
WRITTEN = [
    ("007", "2", "a"),
    ("2024-01-01", "true", "d"),
    ("8", "2.0", "b"),
    ("9.50", "1e5", "c"),
    ("NA", "", "e"),
    ("p00005", "2", "f"),
]


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_cells_of_json_are_kept_as_written(tmp_path: Path, start: str, end: str) -> None:
    """Through both sources: a number keeps its digits, a date stays a text, true is JSON's."""
    lines, listed = tmp_path / "p.jsonl", tmp_path / "list.json"
    lines.write_bytes((start + JSON_LINES.replace("\n", end)).encode())
    listed.write_bytes(f"{start}[{','.join(JSON_LINES.splitlines())}]".encode())
    counts = {"extract": 4, "choose": 1, "test": 1}
    assert cells(JsonlPrompts(path=str(lines)).read(counts, seed=0)) == WRITTEN
    for path in (lines, listed):
        found = DatasetPrompts(path="json", data_files=str(path), id="id", answer="answer").read(counts, seed=0)
        assert cells(found) == WRITTEN


SYSTEM = {"role": "system", "content": "Be brief."}
CHATS = [[SYSTEM, {"role": "user", "content": f"question {i}?"}] for i in range(4)]


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("column", ["prompt", "messages"])
def test_chats_of_every_source(tmp_path: Path, column: str) -> None:
    from datasets import Dataset

    rows = [{column: chat} for chat in CHATS]
    lines, table = write(tmp_path / "p.jsonl", *map(json.dumps, rows)), tmp_path / "p.parquet"
    Dataset.from_list(rows).to_parquet(table)
    sources = (
        JsonlPrompts(path=lines),
        DatasetPrompts(path="json", data_files=lines),
        DatasetPrompts(path="parquet", data_files=str(table)),
        DatasetPrompts(path="parquet", data_files=str(table), prompt=column),
    )
    for source in sources:
        found = {p.id: to_json(p.prompt) for p in source.read(COUNTS, seed=0)}
        assert found == {f"p{i:05d}": chat for i, chat in enumerate(CHATS)}


WRONG = [
    {"prompt": [{"role": "bot", "content": "x"}]},
    {"prompt": [{"role": "user", "content": " "}]},
    {"messages": [CHATS[0][1], {"role": "tool", "content": "4"}]},
    {"prompt": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x.png"}}]}]},
    {"prompt": {"role": "user", "content": "x"}},
    {"prompt": [CHATS[0]]},
    {"prompt": 7},
    {"prompt": "x", "id": [1]},
]
SAID = [
    "unknown role 'bot'",
    "message 1 is empty",
    "'messages': message 2 is a tool's turn",
    "part 1 of the type 'image",
    "not a mapping (with 'role', 'content')",
    "not a list; one prompt is one conversation",
    "not a number",
    "'id' must be a text, not a list",
]


@pytest.mark.usefixtures("cache")
def test_prompts_that_can_not_be_used_are_refused_by_line(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", json.dumps(ROWS[0]), *map(json.dumps, WRONG), "{oops")
    for source in (JsonlPrompts(path=path), DatasetPrompts(path="json", data_files=path, id="id")):
        with pytest.raises(InputError) as caught:
            source.read(COUNTS, seed=0)
        problems = sorted(caught.value.problems, key=lambda p: int(p.where.rsplit(":", 1)[1]))
        assert [p.where for p in problems] == [f"{path}:{line}" for line in range(2, len(WRONG) + 3)]
        for problem, said in zip(problems, [*SAID, "not a JSON line"], strict=True):
            if not (said.startswith("'messages'") and isinstance(source, DatasetPrompts)):  # it reads one column
                assert said in str(problem)


@pytest.mark.usefixtures("cache")
def test_rows_of_a_table_are_refused_by_number(tmp_path: Path) -> None:
    import pandas

    path = tmp_path / "p.parquet"
    pandas.DataFrame({"prompt": ["a", None, "b", ""], "at": pandas.to_datetime(["2024-01-01"] * 4)}).to_parquet(path)
    with pytest.raises(InputError) as caught:
        DatasetPrompts(path="parquet", data_files=str(path), split="train[1:]").read(COUNTS, seed=0)
    assert [str(p) for p in caught.value.problems] == [
        "parquet train[1:][0]: 'prompt' is null",
        "parquet train[1:][2]: 'prompt' is empty",
    ]
    with pytest.raises(InputError, match=r"train\[0\]: 'answer' must be a text, not datetime"):
        DatasetPrompts(path="parquet", data_files=str(path), answer="at").read(COUNTS, seed=0)


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prompt,id\na,1,2\n\nb\n", ["2: has 3 cells, where the header has 2", "4: has 1 cells, where the"]),
        ('prompt,id\n"a\nb",1\nc\n', ["4: has 1 cells, where the header has 2"]),
        ('prompt,id\na,1\n"b,2\n', ["3: is not CSV: unexpected end of data"]),
        ("prompt,prompt\na,b\n", ["1: has the column 'prompt' twice"]),
        ('prompt\n"[{""role"": ""user"", ""content"": ""x""}]"\n', ["2: 'prompt' is a list of messages written as a"]),
    ],
)
def test_malformed_csv_is_refused_by_line(tmp_path: Path, text: str, said: list[str]) -> None:
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        DatasetPrompts(path="csv", data_files=str(path)).read(COUNTS, seed=0)
    problems = list(map(str, caught.value.problems))
    assert len(problems) == len(said)
    assert all(problem.startswith(f"{path}:{part}") for problem, part in zip(problems, said, strict=True))


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("latin-1", r"{}:3: not UTF-8 \(byte \d+ of the line is 0xE9\), perhaps Latin-1 .*iconv -f WINDOWS-1252"),
        ("utf-16", r"{}:1: not UTF-8 but UTF-16, it seems; save it as UTF-8, e\.g\. `iconv -f UTF-16"),
        ("utf-16-le", r"{}:1: not UTF-8 but UTF-16"),
    ],
)
def test_files_that_are_not_utf8(tmp_path: Path, kind: str, encoding: str, said: str) -> None:
    path = tmp_path / f"p.{kind}"
    lines = ["prompt", "a", "caf\u00e9"] if kind == "csv" else [json.dumps({"prompt": x}) for x in "abc"]
    lines[2] = lines[2].replace("c", "caf\u00e9", 1) if kind == "jsonl" else lines[2]
    path.write_bytes("\n".join(lines).encode(encoding))
    sources = [DatasetPrompts(path="csv" if kind == "csv" else "json", data_files=str(path))]
    for source in [*sources, *([JsonlPrompts(path=str(path))] if kind == "jsonl" else [])]:
        with pytest.raises(SteerkitError, match=said.format(path.name)) as caught:
            source.read(COUNTS, seed=0)
        assert "OFFLINE" not in str(caught.value)


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("text", ["", "prompt\n", "\n"])
def test_files_without_rows(tmp_path: Path, text: str) -> None:
    for kind in ("csv", "json"):
        path = tmp_path / f"p.{kind}"
        path.write_text(text if kind == "csv" else text.replace("prompt", ""))
        with pytest.raises(SteerkitError, match=f"data set {kind}: holds no rows"):
            DatasetPrompts(path=kind, data_files=str(path)).read(COUNTS, seed=0)


@pytest.mark.usefixtures("cache")
def test_the_offline_switch_is_named_for_the_hub_alone(tmp_path: Path) -> None:
    for config in ({"path": "parquet", "data_files": str(tmp_path / "none.parquet")}, {"path": str(tmp_path)}):
        with pytest.raises(SteerkitError, match="can't be loaded") as caught:
            DatasetPrompts(**config).read(COUNTS, seed=0)
        assert "OFFLINE" not in str(caught.value)


def test_the_documented_rows_are_taken(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "prompts.md").read_text(encoding="utf-8")
    (tmp_path / "p.jsonl").write_text(text.split("```json\n")[1].split("```")[0], encoding="utf-8")
    found = JsonlPrompts(path=str(tmp_path / "p.jsonl")).read({"extract": 1, "choose": 1, "test": 1}, seed=0)
    assert {p.id: (type(p.prompt), p.answer) for p in found} == {
        "p00000": (str, ""),
        "007": (tuple, "12"),
        "p00002": (tuple, ""),
    }


def test_the_files_that_a_source_reads(tmp_path: Path) -> None:
    """A run makes its prompts again when one of them has changed."""
    first = Path(write(tmp_path / "mine" / "a.jsonl", json.dumps(ROWS[0])))
    second = Path(write(tmp_path / "mine" / "b" / "c.jsonl", json.dumps(ROWS[0])))
    assert JsonlPrompts(path=str(first)).config.reads() == {"path": [first]}
    assert DatasetPrompts(path=str(tmp_path / "mine")).config.reads()["path"] == [first, second]
    pattern = str(tmp_path / "mine" / "*.jsonl")
    assert DatasetPrompts(path="json", data_files=pattern).config.reads()["data_files"] == [first]
    assert DatasetPrompts(path="someone/none").config.reads() == {"path": [], "data_files": []}
    assert PocketPrompts().config.reads() == {}


def test_pocket_answers_are_checked() -> None:
    source = PocketPrompts()
    (prompt,) = source.read({"test": 1}, seed=0)
    right = f" Ann has 3 apples. Ann has {prompt.answer} apples."
    assert source.correct(prompt, right) == 1.0
    assert source.correct(prompt, f" Ann has {prompt.answer}1 apples.") == 0.0
    assert source.correct(prompt, "") == 0.0
