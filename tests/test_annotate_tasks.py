"""What annotators are shown: every span once, blinded, the same sample for all, in an order of their own."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from annotate_run import GENERATIONS, TRACES, sentences, write_run

from steerkit.annotate.judged_generations import JUDGED, generation_tasks
from steerkit.annotate.session import shown
from steerkit.annotate.tasks import sample, shuffled, trace_tasks
from steerkit.data.generated import Generation
from steerkit.data.trace import Span, read_rows, write_rows
from steerkit.errors import InputError, SteerkitError
from steerkit.interfaces import Judge, Metric
from steerkit.registry import register
from steerkit.store.files import write_jsonl


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


def test_every_span_is_a_task_once(run: Path) -> None:
    spans = read_rows(run / "spans.jsonl", Span)
    doubled = [*spans, *(Span(**{**json.loads(line), "judge": "llm"}) for line in open_lines(run / "spans.jsonl"))]
    write_rows(run / "spans.jsonl", doubled)
    assert sorted(task.place for task in trace_tasks(run, 1)) == sorted((s.trace_id, s.start, s.end) for s in spans)


def open_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("context", [0, 1, 3, 99])
def test_the_parts_are_the_text_and_its_neighbours(run: Path, context: int) -> None:
    for task in trace_tasks(run, context):
        parts = shown(task)["parts"]
        name, start, end = task.place
        assert "".join(parts) == TRACES[name]
        assert parts[2] == TRACES[name][start:end]
        places = sentences(TRACES[name])
        number = places.index((start, end))
        for side, there in ((parts[1], number), (parts[3], len(places) - 1 - number)):
            assert len(sentences(side.strip())) == min(context, there)
        assert bool(parts[0].strip()) == (number > context)
        assert bool(parts[4].strip()) == (len(places) - 1 - number > context)


def test_the_page_is_told_nothing_of_judges_and_conditions(run: Path) -> None:
    tasks = shuffled([*trace_tasks(run, 1), *generation_tasks(run, "scored", 1)], "ada", 0)
    told = json.dumps([{"id": name, **shown(task)} for name, task in tasks.items()])
    for secret in ("rules", "backtracking", "deduction", "none", "dom", "8.0", "strength", '"t0', "q0"):
        assert secret not in told
    assert set(shown(next(iter(tasks.values())))) == {"parts", "prompt", "votes"}


def test_a_sample_is_everybodys_and_part_of_a_larger_one(run: Path) -> None:
    tasks = trace_tasks(run, 1)
    small, large = sample(tasks, 4, 0), sample(tasks, 9, 0)
    assert small == large[:4] == sample(tasks[::-1], 4, 0)
    assert {t.place for t in sample(tasks, 9, 1)} != {t.place for t in large}
    assert len(sample(tasks, None, 0)) == len(sample(tasks, 999, 0)) == len(tasks)


def test_each_annotator_has_an_order(run: Path) -> None:
    tasks = trace_tasks(run, 1)
    ada, again, bob = (
        shuffled(order, name, 0) for order, name in ((tasks, "ada"), (tasks[::-1], "ada"), (tasks, "bob"))
    )
    assert list(ada) == list(again)
    assert not set(ada) & set(bob)
    orders = [[task.place for task in found.values()] for found in (ada, bob)]
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != sorted(orders[0])


def test_flagged_sentences_of_generations(run: Path) -> None:
    def found(flag: str) -> list[tuple[str, str]]:
        return [(t.place[0], shown(t)["parts"][2]) for t in generation_tasks(run, flag, 1)]  # type: ignore[arg-type]

    assert found("generations") == [
        ("dom/q0/0", "Wait."),
        ("dom/q0/0", "Wait."),
        ("dom/q1/0", "Wait, no."),
        ("none/q0/0", "Wait, 5."),
    ]
    assert found("scored") == [("dom/q0/0", "Hmm."), *found("generations")]
    prompts = [task.text.prompt for task in generation_tasks(run, "scored", 1)]
    assert prompts == [*["What is it?"] * 3, "And that?", "What is it?"]
    judged = read_rows(run / JUDGED, Span)
    assert {(s.judge, s.label) for s in judged} == {
        (j, x) for j in ("rules", "keyword") for x in ("backtracking", "other")
    }
    assert {s.trace_id for s in judged} == {row.id for row in GENERATIONS}


def recipe_with(run: Path, judge: dict[str, object]) -> None:
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    (run / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "score_judge": judge}))


def test_sentences_flagged_by_a_score_judge_of_labels(run: Path) -> None:
    """Its own sentences with the fitted label; one and the same judge is named once."""
    recipe_with(run, {"name": "rules", "patterns": {"backtracking": ["^Hmm"], "x": ["4"]}})
    assert [shown(t)["parts"][2] for t in generation_tasks(run, "scored", 1)] == ["Hmm."]
    assert {s.judge for s in read_rows(run / JUDGED, Span)} == {"rules", "rules:score"}
    recipe_with(run, {"name": "rules", "patterns": {"backtracking": ["^Wait"]}})
    assert len(generation_tasks(run, "scored", 1)) == len(generation_tasks(run, "generations", 1)) == 4
    assert {s.judge for s in read_rows(run / JUDGED, Span)} == {"rules"}


def test_a_score_judge_of_points_flags_no_sentence(run: Path) -> None:
    @register("judges", "points-for-annotation")
    class Points(Judge):
        def metrics(self) -> list[Metric]:
            return [Metric("trait", "points 0 to 100", (0, 100))]

    recipe_with(run, {"name": "points-for-annotation"})
    with pytest.raises(SteerkitError, match=r"gives points 0 to 100 \(trait\), which picks out no sentence"):
        generation_tasks(run, "scored", 1)
    assert len(generation_tasks(run, "generations", 1)) == 4


def test_generations_are_judged_once_and_again_when_they_change(run: Path) -> None:
    generation_tasks(run, "scored", 1)
    before = (run / JUDGED).stat().st_mtime_ns
    generation_tasks(run, "generations", 1)
    assert (run / JUDGED).stat().st_mtime_ns == before
    (run / "generations/test.jsonl").unlink()
    assert [t.place for t in generation_tasks(run, "scored", 1)] == [("dom/q1/0", 10, 19)]
    write_generations(run, replace(GENERATIONS[0], condition="c", text="Wait now."))
    assert [t.place for t in generation_tasks(run, "scored", 1)] == [("c/q0/0", 0, 9)]


def write_generations(run: Path, *rows: Generation) -> None:
    """Generations in place of those that a run has."""
    for path in (run / "generations").glob("*.jsonl"):
        path.unlink()
    write_jsonl(run / "generations/test.jsonl", [row.to_json() for row in rows])


def test_runs_that_have_nothing_to_label(run: Path, tmp_path: Path) -> None:
    with pytest.raises(SteerkitError, match=r"spans\.jsonl: is not there: run the recipe until its spans are made"):
        trace_tasks(tmp_path, 1)
    with pytest.raises(SteerkitError, match=r"no run there \(no recipe\.yaml\); give the folder"):
        generation_tasks(tmp_path, "scored", 1)
    lost = [
        Span(trace_id=n, label="x", judge="j", start=0, end=e, first=0, last=0) for n, e in (("t9", 3), ("t0", 999))
    ]
    write_rows(run / "spans.jsonl", lost)
    with pytest.raises(InputError) as error:
        trace_tasks(run, 1)
    assert "spans.jsonl:1: there is no trace 't9'" in str(error.value)
    assert "spans.jsonl:2: characters 0 to 999 are not in the trace" in str(error.value)
    write_generations(run, replace(GENERATIONS[0], text="So."))
    with pytest.raises(SteerkitError, match="no sentence of its generations is 'backtracking' by keyword"):
        generation_tasks(run, "scored", 1)
    shutil.rmtree(run / "generations")
    with pytest.raises(SteerkitError, match="holds no generations: run the recipe until they are made"):
        generation_tasks(run, "generations", 1)


def test_a_run_without_judges_has_no_sentences_of_generations(run: Path) -> None:
    """Nothing of it labels sentences: its experiments need no spans."""
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    (run / "recipe.yaml").write_text(yaml.safe_dump({"think_end": recipe["think_end"]}))
    with pytest.raises(SteerkitError, match=r"recipe\.yaml: has no span_judge and no score_judge and no fitter"):
        generation_tasks(run, "generations", 1)
    assert trace_tasks(run, 1)


def test_damaged_generations_are_named_by_line(run: Path) -> None:
    good = json.dumps(GENERATIONS[0].to_json())
    bad = json.dumps({**GENERATIONS[0].to_json(), "text": 5, "prompt_id": None})
    (run / "generations/choose.jsonl").write_text(f"{good}\n{{\n5\n")
    (run / "generations/test.jsonl").write_text(f"{bad}\n{good}\n{{}}\n")
    with pytest.raises(InputError) as error:
        generation_tasks(run, "generations", 1)
    said = {p.where.rpartition("/")[2]: p.message.partition("(")[0].strip() for p in error.value.problems}
    fields = "'split', 'condition', 'prompt_id', 'sample', 'text', 'added_norm', 'finished'"
    assert said == {
        "choose.jsonl:2": "not a JSON line",
        "choose.jsonl:3": "a JSON object was expected, not int",
        "test.jsonl:1": "'prompt_id', 'text' missing, or of another type",
        "test.jsonl:3": f"{fields} missing, or of another type",
    }
