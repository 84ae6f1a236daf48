"""Labels out of a run, into another, and decided where annotators differ; all through the command line."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from annotate_run import label_all, write_run

from steerkit.annotate.agreement import disagreements
from steerkit.annotate.judged_generations import generation_tasks
from steerkit.annotate.session import shown
from steerkit.annotate.store import Store, read_log
from steerkit.annotate.tasks import trace_tasks
from steerkit.cli import main
from steerkit.data.trace import Span, Trace, read_rows, write_rows
from steerkit.errors import SteerkitError

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


@pytest.fixture
def annotate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """`steerkit annotate` in this process: exit code, output, errors."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["steerkit", "annotate", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        out = capsys.readouterr()
        return code, out.out, out.err

    return call


def test_an_export_is_spans_with_the_annotators_name(run: Path, annotate: Call, tmp_path: Path) -> None:
    label_all(run, "ada", Wait="backtracking")
    label_all(run, "bob", Hmm="backtracking")
    assert annotate(run, "--export", "all.jsonl")[0] == 0
    assert annotate(run, "--export", "ada.jsonl", "--annotator", "ada")[0] == 0
    spans = read_rows(tmp_path / "all.jsonl", Span)
    machine = {(s.trace_id, s.start, s.end, s.first, s.last) for s in read_rows(run / "spans.jsonl", Span)}
    for name in ("human:ada", "human:bob"):
        assert {(s.trace_id, s.start, s.end, s.first, s.last) for s in spans if s.judge == name} == machine
    assert read_rows(tmp_path / "ada.jsonl", Span) == [s for s in spans if s.judge == "human:ada"]


def test_an_export_leaves_out_skipped_and_outdated_ones(run: Path, annotate: Call, tmp_path: Path) -> None:
    tasks = trace_tasks(run, 1)
    with Store(run, "ada") as store:
        store.put("label", tasks[0], tasks[-1], label="other")
        store.put("skip", tasks[1])
    traces = read_rows(run / "traces.jsonl", Trace)
    write_rows(run / "traces.jsonl", [*traces[:2], Trace(id="t2", prompt_id="t2", prompt="", text="Another text now.")])
    code, out, _ = annotate(run, "--export", "some.jsonl")
    assert code == 0 and "1 labels -> some.jsonl" in out
    assert "1 labels left out: the texts that they are of have changed since" in out
    (span,) = read_rows(tmp_path / "some.jsonl", Span)
    assert (span.trace_id, span.start, span.end) == tasks[0].place


def test_into_another_run_and_back(run: Path, annotate: Call, tmp_path: Path) -> None:
    label_all(run, "ada", Wait="backtracking")
    annotate(run, "--export", "ada.jsonl")
    other = write_run(tmp_path / "other")
    assert annotate(other, "--import", "ada.jsonl")[1] == "ada: 16 new labels\n"
    assert annotate(other, "--import", "ada.jsonl")[1] == "ada: 0 new labels\n"
    annotate(other, "--export", "back.jsonl")
    assert (tmp_path / "back.jsonl").read_bytes() == (tmp_path / "ada.jsonl").read_bytes()
    with Store(other, "ada") as store:
        assert store.undoable is None  # what was done in another run can't be undone key by key


def test_an_import_takes_all_or_nothing(run: Path, annotate: Call, tmp_path: Path) -> None:
    label_all(run, "ada")
    annotate(run, "--export", "ada.jsonl")
    other = write_run(tmp_path / "other")
    label_all(other, "bob", "other")
    good = read_rows(tmp_path / "ada.jsonl", Span)
    wrong = [
        Span(**{**fields(good[1]), "trace_id": "t77"}),
        Span(**{**fields(good[2]), "end": good[2].end - 1}),
        Span(**{**fields(good[3]), "first": 99}),
        Span(**{**fields(good[4]), "label": "backtraking"}),
        Span(**{**fields(good[5]), "judge": "llm"}),
        Span(**{**fields(good[6]), "judge": "human:bob"}),
    ]
    write_rows(tmp_path / "mixed.jsonl", [good[0], *wrong])
    code, _, err = annotate(other, "--import", "mixed.jsonl")
    assert code == 2
    for part in (
        "6 problems",
        "mixed.jsonl:2: ",
        "other has no such span, 16 to",
        "of 't77'",
        "mixed.jsonl:3: ",
        "mixed.jsonl:4: ",
        "mixed.jsonl:5: label 'backtraking' is not in the taxonomy; did you mean 'backtracking'?",
        "mixed.jsonl:6: judge 'llm' is no person; people are human:NAME",
        "mixed.jsonl:7: 'bob' has labelled this span 'other' already",
    ):
        assert part in err, (part, err)
    assert not (other / "annotations/ada.jsonl").exists()


def fields(span: Span) -> dict[str, object]:
    return {name: getattr(span, name) for name in Span.__dataclass_fields__}


def test_labels_of_generations_go_to_another_copy_of_the_run(run: Path, annotate: Call, tmp_path: Path) -> None:
    with Store(run, "ada") as store:
        store.put("label", *generation_tasks(run, "scored", 1), label="backtracking")
    annotate(run, "--export", "ada.jsonl")
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "annotations")
    assert annotate(copy, "--import", "ada.jsonl")[1] == "ada: 5 new labels\n"
    spans = read_rows(tmp_path / "ada.jsonl", Span)
    assert {span.trace_id for span in spans} == {"none/q0/0", "dom/q0/0", "dom/q1/0"}


def test_labels_of_generations_carry_their_strength(run: Path, annotate: Call, tmp_path: Path) -> None:
    with Store(run, "ada") as store:
        store.put("label", *generation_tasks(run, "scored", 1), trace_tasks(run, 1)[0], label="other")
    annotate(run, "--export", "ada.jsonl", "--with", "strength")
    rows = [json.loads(line) for line in (tmp_path / "ada.jsonl").read_text().splitlines()]
    assert [(row["trace_id"], row.get("strength")) for row in rows] == [
        *[("dom/q0/0", 8.0)] * 3,
        ("dom/q1/0", 8.0),
        ("none/q0/0", 0.0),
        ("t0", None),
    ]
    code, _, err = annotate(run, "--export", "more.jsonl", "--with", "strenght")
    assert code == 2 and "the generations of" in err and "have no such field; did you mean 'strength'?" in err


def test_a_label_that_only_some_conditions_have(run: Path, annotate: Call, tmp_path: Path) -> None:
    with Store(run, "ada") as store:
        store.put("label", *generation_tasks(run, "generations", 1), label="other")
    annotate(run, "--export", "ada.jsonl", "--with", "model")
    rows = [json.loads(line) for line in (tmp_path / "ada.jsonl").read_text().splitlines()]
    assert {row["trace_id"]: row.get("model") for row in rows} == {
        "dom/q0/0": None,
        "dom/q1/0": None,
        "none/q0/0": "base",
    }


def test_disagreements_are_shown_without_names(run: Path) -> None:
    label_all(run, "ada", Wait="backtracking", One="example-testing")
    label_all(run, "bob", Hmm="backtracking", One="initializing")
    tasks, shared = disagreements(run, 1)
    assert shared == 16
    words = {shown(task)["parts"][2]: sorted(task.votes) for task in tasks}
    assert words == {
        "Wait, is that 4?": ["backtracking", "deduction"],
        "Hmm, no.": ["backtracking", "deduction"],
        "One.": ["example-testing", "initializing"],
    }
    assert disagreements(run, 1)[0] == tasks


def test_disagreements_outlive_the_runs_own_spans(run: Path) -> None:
    label_all(run, "ada", Wait="backtracking")
    label_all(run, "bob")
    spans = [span for span in read_rows(run / "spans.jsonl", Span) if span.trace_id != "t0"]
    write_rows(run / "spans.jsonl", spans)
    assert [shown(task)["parts"][2] for task in disagreements(run, 1)[0]] == ["Wait, is that 4?"]


def test_votes_do_not_always_stand_in_the_same_order(run: Path) -> None:
    label_all(run, "ada", "deduction")
    label_all(run, "bob", "other")
    assert len({task.votes for task in disagreements(run, 1)[0]}) == 2


def test_nothing_to_adjudicate(run: Path, annotate: Call) -> None:
    with pytest.raises(SteerkitError, match=r"no span has labels of two annotators \(labelled so far: nobody\)"):
        disagreements(run, 1)
    label_all(run, "ada")
    code, _, err = annotate(run, "--adjudicate")
    assert code == 2 and "(labelled so far: ada)" in err
    label_all(run, "bob")
    code, out, _ = annotate(run, "--adjudicate")
    assert code == 0 and "0 of 16 spans that two or more have labelled have different labels" in out


def test_what_is_settled_is_exported_once_somebody_decided(run: Path, annotate: Call, tmp_path: Path) -> None:
    label_all(run, "ada", Wait="backtracking", Hmm="backtracking")
    label_all(run, "bob", Wait="backtracking")
    (task,) = disagreements(run, 1)[0]
    annotate(run, "--export", "before.jsonl")
    assert {s.judge for s in read_rows(tmp_path / "before.jsonl", Span)} == {"human:ada", "human:bob"}
    with Store(run, "adjudicated") as store:
        store.put("label", task, label="other")
    assert len(disagreements(run, 1)[0]) == 1  # the decision is no third vote
    annotate(run, "--export", "gold.jsonl", "--annotator", "adjudicated")
    gold = read_rows(tmp_path / "gold.jsonl", Span)
    assert {s.judge for s in gold} == {"human:adjudicated"}
    labels = {(s.trace_id, s.start, s.end): s.label for s in gold}
    assert len(labels) == len(gold) == 16
    assert labels.pop(task.place) == "other"
    assert sorted(set(labels.values())) == ["backtracking", "deduction"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("gone",), "gone: no such run folder"),
        (("run",), "who labels? Give a name with --annotator NAME"),
        (("run", "--annotator", "a b"), "--annotator 'a b': use letters, digits"),
        (("run", "--annotator", "ada", "--what", "span"), "--what span: did you mean 'spans'?"),
        (("run", "--annotator", "ada", "--taxonomy", "gone.yaml"), "taxonomy 'gone.yaml' is neither a file nor a"),
        (
            ("run", "--annotator", "ada", "--taxonomy", "mine.yaml"),
            "lacks (backtracking): no label by hand could agree",
        ),
        (("run", "--export", "run/spans.jsonl"), "spans.jsonl: is there already; name another file"),
        (("run", "--export", "x.jsonl"), "run: has no labels yet; begin with `steerkit annotate run --annotator NAME`"),
        (("run", "--export", "x.jsonl", "--annotator", "bob"), "run: 'bob' has labelled nothing there"),
        (("run", "--export", "x.jsonl", "--adjudicate"), "one at a time"),
        (("run", "--import", "gone.jsonl"), "gone.jsonl: can't be read: No such file"),
        (("run", "--annotator", "ada", "--port", "99999", "--no-open"), "--port 99999: can't be used"),
    ],
)
def test_user_mistakes(run: Path, annotate: Call, words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("- deduction: It follows.\n")
    code, _, err = annotate(*words)
    assert code == 2
    assert message in err


def test_labels_of_another_taxonomy_are_not_lost_among_these(run: Path, annotate: Call) -> None:
    with Store(run, "ada") as store:
        store.put("label", trace_tasks(run, 1)[0], label="musing")
    code, _, err = annotate(run, "--annotator", "ada", "--no-open")
    assert code == 2 and "has labels that the taxonomy lacks: musing; give --taxonomy" in err
    assert len(read_log(run / "annotations/ada.jsonl")) == 1


def test_the_same_name_in_two_terminals(run: Path, annotate: Call) -> None:
    with Store(run, "ada"):
        code, _, err = annotate(run, "--annotator", "ada", "--no-open")
    assert code == 2 and "'ada' is annotating this run in another process" in err
