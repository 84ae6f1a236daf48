"""Labels on disk: kept at every key, undone in order, resumed, one holder a name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from annotate_run import write_run

from steerkit.annotate.store import Store, check_name, labels_of, read_log
from steerkit.annotate.tasks import Task, trace_tasks
from steerkit.errors import InputError, SteerkitError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


@pytest.fixture
def tasks(run: Path) -> list[Task]:
    return trace_tasks(run, 1)


def test_the_last_label_of_a_span_counts(run: Path, tasks: list[Task]) -> None:
    with Store(run, "ada") as store:
        store.put("label", tasks[0], label="deduction")
        store.put("label", tasks[1], label="other")
        store.put("label", tasks[0], label="backtracking")
        store.put("skip", tasks[2])
    rows = read_log(run / "annotations/ada.jsonl")
    assert len(rows) == 4
    assert {place: row["label"] for place, row in labels_of(rows).items()} == {
        tasks[0].place: "backtracking",
        tasks[1].place: "other",
    }
    assert {row["judge"] for row in rows} == {"human:ada"}


def test_undo_goes_back_step_by_step_and_over_a_restart(run: Path, tasks: list[Task]) -> None:
    a, b = tasks[:2]
    with Store(run, "ada") as store:
        store.put("label", a, label="deduction")
        store.put("label", a, label="backtracking")
        store.put("label", b, label="other")
        assert store.undoable == b.place
        store.undo(b)
        assert (store.label(b), store.undoable) == ("", a.place)
    with Store(run, "ada") as store:
        assert (store.label(a), store.label(b), store.undoable) == ("backtracking", "", a.place)
        store.undo(a)
        assert store.label(a) == "deduction"
        store.undo(a)
        assert (store.label(a), store.undoable) == ("", None)


def test_skipped_ones_come_again_without_losing_what_can_be_undone(run: Path, tasks: list[Task]) -> None:
    with Store(run, "ada") as store:
        store.put("label", tasks[0], label="deduction")
        store.put("skip", tasks[1], tasks[2])
        store.put("again", tasks[1], tasks[2])
        assert not store.skipped(tasks[1])
        assert store.undoable == tasks[2].place


def test_a_kill_at_any_byte_loses_at_most_the_torn_line(run: Path, tasks: list[Task]) -> None:
    with Store(run, "ada") as store:
        for task in tasks[:3]:
            store.put("label", task, label="deduction")
    path = run / "annotations/ada.jsonl"
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    for cut in range(0, len(whole), 7):
        path.write_bytes(whole[:cut])
        kept = sum(end <= cut for end in ends)
        assert len(read_log(path)) == kept
        assert path.stat().st_size == cut  # who only reads does not mend: the file may be someone's who is at work
        with Store(run, "ada") as store:
            assert len(store.rows) == kept
            store.put("label", tasks[5], label="other")
        assert len(read_log(path)) == kept + 1


def test_a_real_kill(run: Path, tasks: list[Task]) -> None:
    code = (
        "import os, sys; from pathlib import Path\n"
        "from steerkit.annotate.store import Store; from steerkit.annotate.tasks import trace_tasks\n"
        "run = Path(sys.argv[1])\n"
        "store = Store(run, 'ada').__enter__()\n"
        "for task in trace_tasks(run, 1)[:4]: store.put('label', task, label='deduction')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run)], check=False)
    assert done.returncode == -9
    with Store(run, "ada") as store:
        assert [store.label(task) for task in tasks[:5]] == ["deduction"] * 4 + [""]


def test_the_same_name_twice_at_once_is_refused(run: Path) -> None:
    with Store(run, "ada"):
        with pytest.raises(
            SteerkitError, match="'ada' is annotating this run in another process; go on there or end it"
        ):
            Store(run, "ada").__enter__()
        with Store(run, "bob"):
            pass
    with Store(run, "ada"):
        pass


@pytest.mark.parametrize("name", ["", "../up", "a b", ".hidden", "x" * 41, "adjudicated", "Adjudicated", "ADA"])
def test_names_that_no_annotator_may_have(run: Path, name: str, tasks: list[Task]) -> None:
    with Store(run, "ada") as store:
        store.put("label", tasks[0], label="other")
    with pytest.raises(SteerkitError, match="--annotator"):
        check_name(run, name)
    check_name(run, "ada")
    check_name(run, "grace.h-2")


def test_damaged_lines_are_all_named(run: Path, tasks: list[Task]) -> None:
    with Store(run, "ada") as store:
        store.put("label", tasks[0], label="other")
    path = run / "annotations/ada.jsonl"
    good = json.loads(path.read_text())
    path.write_text("\n".join(["{oops", json.dumps(good), json.dumps({**good, "start": "1"}), "[]"]) + "\n")
    with pytest.raises(InputError) as error:
        read_log(path)
    assert "ada.jsonl:1: not a JSON line" in str(error.value)
    assert "ada.jsonl:3: not a row of an annotation: start missing or wrong" in str(error.value)
    assert "ada.jsonl:4: not a row of an annotation: trace_id, label" in str(error.value)
    assert "ada.jsonl:2" not in str(error.value)
