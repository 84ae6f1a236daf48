"""`steerkit judge`: annotations in, agreement out, and what is said of wrong files."""

from __future__ import annotations

import csv
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from console import Steerkit
from tiny import word_tokenizer

from steerkit.data.importing import read_spans, read_traces
from steerkit.data.tokens import encode_trace
from steerkit.data.trace import Span, Trace, read_rows

TEXTS = {
    "one": "First I look. Wait, that is wrong. So it is 4.",
    "two": "I start here. Then I go on. Hmm, wait a moment. I waited long. It is 5.",
}
ANNOTATED = {
    "one": '["initializing"] First I look. ["end-section"] ["backtracking"] Wait, that is wrong. ["end-section"] '
    '["deduction"] So it is 4. ["end-section"]',
    "two": '["initializing"] I start here. ["end-section"] ["deduction"] Then I go onn. ["end-section"] '
    '["musing"] Hmm, wait a moment. ["end-section"] ["backtracking"] I waited long.',
}


@pytest.fixture
def judge(steerkit: Steerkit) -> Steerkit:
    """`steerkit judge` with these words."""
    return partial(steerkit, "judge")


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def published(folder: Path, **changes: str) -> Path:
    rows = [
        {"id": name, "prompt": f"Question {name}?", "trace": text, "annotated": {**ANNOTATED, **changes}[name]}
        for name, text in TEXTS.items()
    ]
    return write(folder / "published.jsonl", rows)


def span(judge: str, trace: str, quoted: str, label: str, **more: Any) -> dict[str, Any]:
    start = TEXTS[trace].index(quoted)
    return {
        "trace_id": trace,
        "label": label,
        "judge": judge,
        "start": start,
        "end": start + len(quoted),
        "first": -1,
        "last": -1,
        **more,
    }


def test_an_import_writes_traces_spans_and_every_count(judge: Steerkit, tmp_path: Path) -> None:
    done = judge("import", published(tmp_path), "--to", "in", "--name", "somebody")
    assert done.returncode == 0, done.stderr
    traces = read_rows(tmp_path / "in" / "traces.jsonl", Trace)
    assert [t.text for t in traces] == list(TEXTS.values())
    spans = read_rows(tmp_path / "in" / "spans.jsonl", Span)
    texts = [(TEXTS[s.trace_id][s.start : s.end], s.label) for s in spans]
    assert ("Then I go on.", "deduction") in texts and ("I waited long.", "backtracking") in texts
    assert {(s.judge, s.first, s.last) for s in spans} == {("somebody", -1, -1)}
    notes = json.loads((tmp_path / "in" / "spans.notes.json").read_text())
    assert (notes["exact_spans"], notes["edited_spans"], notes["rejected_spans"]) == (5, 1, {"musing": 1})
    assert notes["coverage"]["one"] == 1.0 and 0.3 < notes["coverage"]["two"] < 0.9
    assert notes["labels"] == {"initializing": 2, "backtracking": 2, "deduction": 2}
    for shown in ("backtracking", "musing 1", "located with small edits"):
        assert shown in done.stdout
    assert judge("import", published(tmp_path), "--to", "in").stderr.startswith(
        "error: in/traces.jsonl: is there already"
    )


def test_a_run_places_imported_spans_with_its_own_tokenizer(judge: Steerkit, tmp_path: Path) -> None:
    source = published(tmp_path)
    assert judge("import", source, "--to", "in").returncode == 0
    encode = partial(encode_trace, word_tokenizer(), marker="</think>")
    traces = read_traces(tmp_path / "in" / "traces.jsonl", encode)
    assert traces == read_traces(source, encode)
    spans = read_spans(tmp_path / "in" / "spans.jsonl", traces, []).spans
    assert spans == read_spans(source, traces, ["initializing", "deduction", "backtracking"]).spans
    assert all(s.first >= len(traces[0].prompt_ids) and s.last >= s.first for s in spans)


def test_a_tokenizer_places_the_spans_at_once(judge: Steerkit, tmp_path: Path) -> None:
    word_tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama"}')
    done = judge("import", published(tmp_path), "--to", "in", "--tokenizer", tmp_path / "model")
    assert done.returncode == 0, done.stderr
    traces = {t.id: t for t in read_rows(tmp_path / "in" / "traces.jsonl", Trace)}
    spans = read_rows(tmp_path / "in" / "spans.jsonl", Span)
    assert all((s.first, s.last) == traces[s.trace_id].token_span(s.start, s.end) for s in spans)
    assert all(t.ids for t in traces.values())


def test_traces_under_the_coverage_are_left_out(judge: Steerkit, tmp_path: Path) -> None:
    done = judge("import", published(tmp_path), "--to", "in", "--min-coverage", 0.9)
    assert [t.id for t in read_rows(tmp_path / "in" / "traces.jsonl", Trace)] == ["one"]
    assert {s.trace_id for s in read_rows(tmp_path / "in" / "spans.jsonl", Span)} == {"one"}
    notes = json.loads((tmp_path / "in" / "spans.notes.json").read_text())
    assert (notes["left_out"], notes["left_out_traces"], notes["left_out_spans"]) == (["two"], 1, 3)
    assert "1 with 3 spans" in done.stdout


def test_spans_behind_the_reasoning_are_counted_apart(judge: Steerkit, tmp_path: Path) -> None:
    assert judge("import", published(tmp_path), "--to", "in", "--think-end", "Hmm,").returncode == 0
    notes = json.loads((tmp_path / "in" / "spans.notes.json").read_text())
    assert (notes["answer_spans"], notes["unlocated_spans"]) == (1, 0)
    assert "I waited long." not in [
        TEXTS[s.trace_id][s.start : s.end] for s in read_rows(tmp_path / "in" / "spans.jsonl", Span)
    ]


def test_other_labels_are_named_or_read_from_a_taxonomy(judge: Steerkit, tmp_path: Path) -> None:
    (tmp_path / "moods.yaml").write_text("- musing: Thinks.\n- backtracking: Turns back.\n")
    for number, option in enumerate((("--taxonomy", "moods.yaml"), ("--labels", "musing,backtracking"))):
        assert judge("import", published(tmp_path), "--to", f"in{number}", *option).returncode == 0
        spans = read_rows(tmp_path / f"in{number}" / "spans.jsonl", Span)
        assert {s.label for s in spans} == {"musing", "backtracking"}
    assert "give one of them" in judge("import", "x", "--to", "y", "--labels", "a", "--taxonomy", "b").stderr


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"id": "one", "prompt": "q", "trace": "a", "annotated": 3}], "in.jsonl:1: needs an 'annotated' text"),
        ([{"id": "one", "prompt": "q", "annotated": "a"}], "in.jsonl:1: has no text under 'trace'"),
        ([{"id": "one", "prompt": "q", "trace": "a"}], "holds neither annotations"),
        (
            [{"id": "one", "prompt": "q", "trace": "a", "annotated": "a"}] * 2,
            "in.jsonl:2: the trace id 'one' stands in line 1",
        ),
        ([], "holds no traces"),
    ],
)
def test_a_wrong_file_is_named_by_line(judge: Steerkit, tmp_path: Path, rows: list[dict[str, Any]], said: str) -> None:
    done = judge("import", write(tmp_path / "in.jsonl", rows), "--to", "out")
    assert done.returncode == 2
    assert said in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_file_cut_in_the_middle_is_named_by_line(judge: Steerkit, tmp_path: Path) -> None:
    path = published(tmp_path)
    path.write_text(path.read_text()[:-40])
    done = judge("import", path, "--to", "out")
    assert done.returncode == 2 and "published.jsonl:2: not a JSON line" in done.stderr
    assert not (tmp_path / "out").exists()


def test_annotations_of_their_own_file(judge: Steerkit, tmp_path: Path) -> None:
    traces = write(tmp_path / "t.jsonl", [{"id": k, "prompt": "q", "trace": v} for k, v in TEXTS.items()])
    rows = [{"id": k, "annotated": v} for k, v in ANNOTATED.items()]
    assert judge("import", write(tmp_path / "a.jsonl", rows), "--traces", traces, "--to", "in").returncode == 0
    wrong = [*rows, rows[0], {"annotated": "x"}, {"id": "three", "annotated": "x"}]
    done = judge("import", write(tmp_path / "b.jsonl", wrong), "--traces", traces, "--to", "out")
    assert done.returncode == 2
    for said in (
        ":3: annotates 'one', as line 1 does",
        ":4: needs the 'id'",
        ":5: annotates 'three', which is none of",
    ):
        assert said in done.stderr


@pytest.fixture
def imported(judge: Steerkit, tmp_path: Path) -> Path:
    assert judge("import", published(tmp_path), "--to", "in", "--name", "ref").returncode == 0
    return tmp_path / "in" / "spans.jsonl"


def figures(path: Path, *first: str) -> dict[tuple[str, ...], dict[str, str]]:
    """Rows by group, judge, label and metric, of the pairs with this first judge."""
    with path.open(newline="") as file:
        return {
            (r["group"], r["judge"], r["label"], r["metric"]): r
            for r in csv.DictReader(file)
            if r["reference"] in first
        }


def test_a_keyword_judge_is_asked_live(judge: Steerkit, imported: Path, tmp_path: Path) -> None:
    loose = "keyword:{keywords: [wait], substring: true}"
    done = judge("compare", imported, "--judge", "keyword", "--judge", loose, "--out", "a.csv")
    assert done.returncode == 0, done.stderr
    found = figures(tmp_path / "a.csv", "ref")
    assert float(found["", "keyword", "backtracking", "recall"]["value"]) == 0.5
    assert float(found["", loose, "backtracking", "recall"]["value"]) == 1.0
    row = found["", loose, "backtracking", "f1"]
    assert (row["reference"], row["n_units"], row["n_traces"], row["n_both"]) == ("ref", "6", "2", "2")
    assert loose in done.stdout and "Krippendorff" in done.stdout and "labels that count: backtracking" in done.stdout
    assert "Few traces: 2. Below 100 these intervals" in done.stdout


def test_another_judge_has_the_label_that_covers_most(judge: Steerkit, imported: Path, tmp_path: Path) -> None:
    rows = [
        span("b", "one", "First I look. Wait", "initializing"),
        span("b", "one", ", that is wrong.", "backtracking"),
        span("b", "two", "Then", "deduction"),
    ]
    other = write(tmp_path / "b.jsonl", rows)
    done = judge("compare", imported, other, "--out", "a.json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads((tmp_path / "a.json").read_text())
    (pair,) = found["pairs"]
    labels = pair["labels"]
    table = {(a, b): pair["table"][i][j] for i, a in enumerate(labels) for j, b in enumerate(labels)}
    assert {k: v for k, v in table.items() if v} == {
        ("initializing", "initializing"): 1,
        ("backtracking", "backtracking"): 1,
        ("initializing", "other"): 1,
        ("deduction", "other"): 2,
        ("backtracking", "other"): 1,
    }
    assert "b: 3 spans; 3 units have none of them and count as other" in done.stdout
    assert judge("compare", imported, other, "--uncovered", "leave-out", "--out", "b.json").returncode == 0
    (pair,) = json.loads((tmp_path / "b.json").read_text())[0]["pairs"]
    assert (pair["n_units"], pair["missing"]) == (3, 3)


def test_judges_of_one_file_and_groups(judge: Steerkit, tmp_path: Path) -> None:
    rows = []
    for name, labels in {"x": "ab", "y": "aa", "z": "ba"}.items():
        rows += [
            span(name, "one", "First I look.", labels[0], strength=0),
            span(name, "one", "Wait, that is wrong.", labels[1], strength=12),
            span(name, "two", "I start here.", labels[0], strength=4),
        ]
    path = write(tmp_path / "many.jsonl", rows)
    done = judge("compare", path, "--reference", "y", "--by", "strength", "--out", "a.csv")
    assert done.returncode == 0, done.stderr
    found = figures(tmp_path / "a.csv", "y")
    assert list(dict.fromkeys(group for group, *_ in found)) == ["0", "4", "12"]
    assert found["12", "x", "", "agreement"]["value"] == "0" and found["0", "x", "", "agreement"]["value"] == "1"
    assert done.stdout.index("strength 4") < done.stdout.index("strength 12")
    assert "no row of 'x' has a field 'nonesuch'" in judge("compare", path, "--by", "nonesuch").stderr
    assert judge("compare", path).returncode == 0


def test_two_annotators_of_one_name_are_refused_with_both_places(judge: Steerkit, tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", [span("ann", "one", "Wait", "x")])
    second = write(tmp_path / "b.jsonl", [span("ann", "two", "Hmm", "x"), span("ann", "one", "Wait", "y")])
    done = judge("compare", first, second)
    assert done.returncode == 2
    assert f"{second}:2: judge 'ann' labels a span that it labels at {first}:1 too" in done.stderr
    assert "NAME=FILE" in done.stderr
    assert judge("compare", first, f"ben={second}").returncode == 0
    both = write(tmp_path / "c.jsonl", [span("ann", "one", "Wait", "x"), span("ann", "one", "Wait", "y")])
    assert (
        f"{both}:2: judge 'ann' labels a span that it labels at {both}:1 too" in judge("compare", both, second).stderr
    )


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"end": 999}, "characters [14, 999) are not a part of trace 'one'"),
        ({"start": -1}, "are not a part of trace"),
        ({"start": 18}, "are not a part of trace"),
        ({"trace_id": "three"}, "traces that aren't there, the first 'three'"),
        ({"label": 3}, "'label' must be str"),
    ],
)
def test_spans_that_cannot_be(judge: Steerkit, imported: Path, tmp_path: Path, row: dict[str, Any], said: str) -> None:
    other = write(tmp_path / "b.jsonl", [span("b", "one", "Wait", "x") | row])
    done = judge("compare", imported, other)
    assert done.returncode == 2 and said in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "agreement takes two judges or more"),
        (("--judge", "keywrd"), "did you mean 'keyword'"),
        (("--judge", "keyword:{odd: 1}"), "odd"),
        (("--judge", "keyword:["), "are not YAML"),
        (("--judge", "keyword:[1]"), "options are given as keyword:{option: value, ...}"),
        (("--judge", "keyword", "--judge", "keyword"), "two judges have this name"),
        (("--judge", "keyword", "--reference", "nobody"), "no judge of that name"),
        (("--judge", "keyword", "--uncovered", "ignore"), "--uncovered ignore"),
        (("--judge", "keyword", "--out", "a.txt"), "written as .csv or .json"),
        (("--judge", "keyword", "--traces", "nowhere.jsonl"), "nowhere.jsonl: can't be read"),
        (("nowhere.jsonl",), "nowhere.jsonl: can't be read"),
    ],
)
def test_wrong_words(judge: Steerkit, imported: Path, words: tuple[str, ...], said: str) -> None:
    done = judge("compare", imported, *words)
    assert done.returncode == 2 and said in done.stderr, done.stderr


def test_a_live_judge_needs_the_texts(judge: Steerkit, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [span("b", "one", "Wait", "x")])
    done = judge("compare", path, "--judge", "keyword")
    assert done.returncode == 2 and "a live judge reads the spans' texts" in done.stderr
    (tmp_path / "empty.jsonl").write_text("")
    assert "holds no rows" in judge("compare", path, "empty.jsonl").stderr
