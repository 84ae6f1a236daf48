"""The human judge: labels found again by the text, decided or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from annotate_run import TRACES, label_all, sentences, write_run
from pydantic import ValidationError
from steerkit_plugins.judges.human import HumanJudge

from steerkit import registry
from steerkit.annotate.agreement import disagreements
from steerkit.annotate.exchange import export
from steerkit.annotate.store import Store
from steerkit.errors import SteerkitError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


def files(run: Path, *names: str) -> list[str]:
    return [str(run / f"annotations/{name}.jsonl") for name in names]


def test_labels_are_found_again_by_the_text(run: Path) -> None:
    label_all(run, "ada", Wait="backtracking", Hmm="backtracking")
    judge = registry.get("judges", "human")(labels=files(run, "ada"))
    assert judge.labels() == ["backtracking", "deduction"]
    texts = [TRACES["t2"], "", TRACES["t0"], TRACES["t0"]]
    found = judge.annotate(texts)
    assert [[(a, b) for a, b, _ in spans] for spans in found] == [sentences(text) for text in texts]
    assert [label for *_, label in found[2]] == ["deduction", "backtracking", "deduction"]
    assert judge.score(texts)[2] == pytest.approx({"backtracking": 1 / 3, "deduction": 2 / 3, "other": 0.0})


def test_an_export_with_its_traces(run: Path, tmp_path: Path) -> None:
    label_all(run, "ada", Wait="backtracking")
    exported = tmp_path / "labels.jsonl"
    export(run, exported)
    with_traces = HumanJudge(labels=str(exported), traces=str(run / "traces.jsonl"))
    texts = list(TRACES.values())
    assert with_traces.annotate(texts) == HumanJudge(labels=files(run, "ada")).annotate(texts)
    with pytest.raises(SteerkitError, match=r"holds spans without their texts; name the traces\.jsonl .* as `spans`"):
        HumanJudge(labels=str(exported)).annotate(texts)
    (tmp_path / "few.jsonl").write_text((run / "traces.jsonl").read_text().splitlines(keepends=True)[0])
    with pytest.raises(SteerkitError, match="has spans of 't1', which is not in"):
        HumanJudge(labels=str(exported), traces=str(tmp_path / "few.jsonl")).annotate(texts)


def test_a_text_that_nobody_labelled(run: Path) -> None:
    label_all(run, "ada")
    with pytest.raises(SteerkitError) as error:
        HumanJudge(labels=files(run, "ada")).annotate([TRACES["t0"], "Another text."])
    for part in ("1 of 2 texts have no labels", "begins 'Another text.'", "`steerkit annotate RUN --annotator NAME`"):
        assert part in str(error.value)


def test_annotators_who_differ_are_not_averaged(run: Path) -> None:
    label_all(run, "ada", Wait="backtracking")
    label_all(run, "bob")
    both = files(run, "ada", "bob")
    with pytest.raises(
        SteerkitError, match="annotators differ on 1 spans; decide them with `steerkit annotate RUN --adj"
    ):
        HumanJudge(labels=both).annotate([TRACES["t0"]])
    with Store(run, "adjudicated") as store:
        store.put("label", *disagreements(run, 1)[0], label="backtracking")
    found = HumanJudge(labels=[*both, *files(run, "adjudicated")]).annotate([TRACES["t0"]])
    assert [label for *_, label in found[0]] == ["deduction", "backtracking", "deduction"]


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(SteerkitError, match=r"gone\.jsonl: no such file of labels; the path is relative to"):
        HumanJudge(labels="gone.jsonl").labels()
    with pytest.raises(ValidationError, match="at least 1 item"):
        HumanJudge(labels=())
