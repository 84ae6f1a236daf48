"""Conditions are told apart by every option: two baselines of one plugin, labels of any name, values given twice."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from llm_server import KEY, completion, serving
from pocket import SIZES
from steerkit_plugins.backtracking.baselines import method_names
from steerkit_plugins.backtracking.words import told_apart
from steerkit_plugins.judges.llm.judge import LLMJudge
from test_vector import example

from steerkit import SteeringVector, load_arguments, load_recipe
from steerkit.artifacts import Condition, PluginSpec
from steerkit.context import Run
from steerkit.errors import InputError
from steerkit.identity import spec_settings
from steerkit.recipe.load import planned_run
from steerkit.run import SteeringTrainer
from steerkit.steps.generations import edits_of
from steerkit.store.csv_tables import read_csv, write_csv
from steerkit.store.files import read_whole_lines

IDS = {
    "none": "71ccc6f6b7a5b531",
    "dom": "f987cea2862b942d",
    "overall-mean": "e99b712f858975d0",
    "gaussian-noise": "489b48d01f191f35",
    "self-amplify": "4d75b34811696a5e",
    "deduction": "8acc09d3100a23c3",
    "initializing": "becbc70f299ffa6d",
}
RANDOM = "{name: random-direction, seed: %s}"
TWO = f"baselines.steerers=[{RANDOM % 0}, {RANDOM % 1}]"


def conditions_of(experiment: str, run: Run) -> list[Condition]:
    """The conditions of an experiment of a run that is only planned."""
    choice = run.experiment("choose").planned(run)
    return list(run.experiment(experiment).conditions(run, {}, choice))


def baselines_of(*settings: str) -> dict[str, str]:
    """Method → condition id, of the baselines at the first strength."""
    run, _ = planned_run(load_recipe("backtracking", ["strengths=[30]", *settings]))
    found = conditions_of("baselines", run)
    ids = [c.id for c in found]
    assert len(set(ids)) == len(ids) == len({c.labels["method"] for c in found})
    return {str(c.labels["method"]): c.id for c in found}


# --- names and ids --------------------------------------------------------------------------------------------------


def test_two_of_one_plugin_are_two_conditions() -> None:
    found = baselines_of(TWO, "baselines.labels=[]")
    assert set(found) == {"none", "dom", "random-direction seed=0", "random-direction seed=1"}


def test_one_alone_has_its_bare_name_and_its_id_covers_its_options() -> None:
    first, other = (baselines_of(f"baselines.steerers=[{RANDOM % seed}]", "baselines.labels=[]") for seed in (0, 1))
    assert set(first) == set(other) == {"none", "dom", "random-direction"}
    assert first["random-direction"] != other["random-direction"]
    assert first["random-direction"] == baselines_of("baselines.steerers=[random-direction]")["random-direction"]


def test_ids_are_the_same_in_every_process_and_release() -> None:
    """So that texts that were made keep theirs."""
    assert baselines_of() == IDS


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ([{"name": "a"}, {"name": "b", "x": 1}], ["a", "b"]),
        ([{"name": "a", "x": 1}, {"name": "a", "x": 2}, {"name": "b"}], ["a x=1", "a x=2", "b"]),
        (
            [{"name": "a", "x": 1, "y": 0.5, "z": 3}, {"name": "a", "x": 1, "y": 1.0, "z": 4}],
            ["a y=0.5 z=3", "a y=1.0 z=4"],
        ),
        ([{"name": "a", "x": True}, {"name": "a", "x": "true"}], ["a x=true", 'a x="true"']),
        ([{"name": "a", "x": 1}, {"name": "a", "x": "1"}, {"name": "a", "x": None}], ["a x=1", 'a x="1"', "a x=null"]),
        (
            [{"name": "a", "model": "gpt-4o"}, {"name": "a", "model": "o3 mini"}],
            ["a model=gpt-4o", 'a model="o3 mini"'],
        ),
    ],
)
def test_names_say_where_plugins_differ(settings: list[dict[str, Any]], names: list[str]) -> None:
    assert told_apart(settings) == names


def test_long_values_are_told_by_their_digest() -> None:
    names = told_apart([{"name": "a", "x": ["word"] * n} for n in (20, 21)])
    assert len(set(names)) == 2 and all(len(name) < 20 and name.startswith("a x=#") for name in names)


def test_a_name_that_is_taken_says_what_it_is() -> None:
    found = method_names("dom", ["dom", "x seed=1"], ["none", "dom", "x", "x (label)", "free"])
    assert found == (
        ["dom (steerer)", "x seed=1"],
        ["none (label)", "dom (label)", "x (label)", "x (label) (label)", "free"],
    )


def test_labels_may_be_called_like_methods() -> None:
    found = baselines_of("baselines={steerers: [overall-mean], labels: [none, dom, overall-mean]}")
    assert set(found) == {"none", "dom", "overall-mean", "none (label)", "dom (label)", "overall-mean (label)"}


def test_each_condition_is_steered_by_its_own_plugin() -> None:
    """Also where the main steerer and baselines are of one plugin, and a label is called like one."""
    settings = [f"steerer={RANDOM % 7}", TWO, "baselines.labels=[random-direction]", "strengths=[30]"]
    run, _ = planned_run(load_recipe("backtracking", settings))
    built: dict[str, Any] = {}
    wanted = {
        str(c.labels["method"]): edits_of(c.interventions, EveryVector(), built)
        for c in conditions_of("baselines", run)
    }
    seeds = {name: edit.intervention.config.seed for name, edits in wanted.items() for edit in edits}
    assert seeds == {
        "dom": 7,
        "random-direction (label)": 7,
        "random-direction seed=0": 0,
        "random-direction seed=1": 1,
    }


VECTOR = SteeringVector({1: torch.ones(4)}, example().info, means={1: torch.ones(4)}, norms={1: (1.0, 1.0)})


class EveryVector(dict[Any, Any]):
    """A vector for every key."""

    def __missing__(self, key: object) -> SteeringVector:
        return VECTOR


# --- what is refused ------------------------------------------------------------------------------------------------


def refused(path: Path, text: str) -> list[str]:
    path.write_text("extends: backtracking\nname: mine\n" + text)
    with pytest.raises(InputError) as caught:
        load_recipe(str(path))
    return [str(problem).removeprefix(f"{path}:") for problem in caught.value.problems]


def test_identical_baselines_and_the_fitters_own_label_are_refused_with_their_place(tmp_path: Path) -> None:
    text = "baselines:\n  steerers:\n  - self-amplify\n  - random-direction\n  - {name: random-direction, seed: 0}\n"
    assert refused(tmp_path / "mine.yaml", text + "  labels: [deduction, backtracking]\n") == [
        "7:5: is the same baseline as 'baselines.steerers.1'; leave one out, or change an option",
        "8:23: is 'backtracking', the fitter's own label; leave it out",
    ]
    args = load_arguments("backtracking", baselines={"steerers": ["self-amplify", "self-amplify"]})
    with pytest.raises(InputError, match=r"baselines\.steerers\.1: is the same baseline as 'baselines\.steerers\.0'"):
        SteeringTrainer({"base": "pocket:base", "reasoning": "pocket:reasoning"}, args=args, prompts=["a", "b", "c"])


LISTS = {
    "strengths: [30, 45, 30.0]": "'strengths' has 30.0 twice",
    "baselines:\n  labels:\n  - deduction\n  - initializing\n  - deduction": "'baselines.labels' has 'deduction' twice",
    "offsets: {starts: [-13, 0, -13]}": "'offsets.starts' has -13 twice",
    "offsets: {strengths: [1, 1.0]}": "'offsets.strengths' has 1.0 twice",
    "layers: {layers: [0, 1, 1]}": "'layers.layers' has 1 twice",
    "layers: {sources: [base, base]}": "'layers.sources' has 'base' twice",
    "layers: {strengths: [30, 30]}": "'layers.strengths' has 30.0 twice",
    "projection: {within: [1, 2, 1]}": "'projection.within' has 1 twice",
    "report_to: [wandb, wandb]": "'report_to' has 'wandb' twice",
}


@pytest.mark.parametrize("text", LISTS)
def test_a_value_that_stands_twice_is_refused_with_its_place(tmp_path: Path, text: str) -> None:
    lines = text.splitlines()
    (said,) = refused(tmp_path / "mine.yaml", text + "\n")
    place, _, message = said.partition(": ")
    assert message == f"{LISTS[text]}; leave one out"
    line, column = map(int, place.split(":"))
    assert line == len(lines) + 2
    value = LISTS[text].split(" has ")[1].split()[0].strip("'").removesuffix(".0")
    assert lines[-1][column - 1 :].startswith(value)
    assert lines[-1].find(value) < column - 1 or len(lines) > 1  # the second of the two


def test_code_is_refused_the_same() -> None:
    args = load_arguments("backtracking", strengths=[30, 30.0])
    with pytest.raises(InputError, match=r"strengths: 30\.0 stands twice"):
        SteeringTrainer({"base": "pocket:base", "reasoning": "pocket:reasoning"}, args=args, prompts=["a", "b", "c"])


HYBRID = '{"weights": "pocket:reasoning", "parts_from": {"mlp": "base"}}'


@pytest.mark.parametrize("name", sorted(p.stem for p in (Path(__file__).parent.parent / "recipes").glob("[!p]*.yaml")))
def test_shipped_recipes_have_no_condition_twice(name: str) -> None:
    models = '{"base": "pocket:base", "reasoning": "pocket:reasoning", "hybrid": HYBRID}'.replace("HYBRID", HYBRID)
    run, _ = planned_run(load_recipe(name, [f"models={models}", "layer=1"]))
    for experiment in {"transfer", "baselines", "offsets", "layers"} & set(run.experiments):
        ids = [c.id for c in conditions_of(experiment, run)]
        assert len(set(ids)) == len(ids) > 1


# --- in tables, figures and reports ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two random directions, and with labels called like other methods and like numbers."""
    folder = tmp_path_factory.mktemp("methods")
    patterns = load_recipe("backtracking").shared["span_judge"]["patterns"]
    renamed = {"deduction": "random-direction", "initializing": "1", "uncertainty-estimation": "none"}
    judge = {"name": "rules", "patterns": {renamed.get(k, k): v for k, v in patterns.items()}}
    settings = {
        "span_judge": judge,
        "experiments": ["baselines", "texts"],
        "baselines.steerers": [{"name": "random-direction", "seed": seed} for seed in (0, 1)],
        "baselines.labels": ["random-direction", "1", "none"],
        "strengths": [30],
        "prompts.choose": 2,
        "prompts.test": 2,
        "output_dir": str(folder),
    }
    given = [f"{name}={json.dumps(value)}" for name, value in settings.items()]
    return SteeringTrainer.from_recipe(load_recipe("backtracking", [*SIZES, *given])).run()


RANDOMS = {"random-direction seed=0", "random-direction seed=1"}
METHODS = {"none", "dom", *RANDOMS, "random-direction (label)", "1", "none (label)"}


def test_every_condition_has_its_own_texts_and_rows(run: Path) -> None:
    rows = read_whole_lines(run / "generations/test.jsonl")
    texts: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        texts[row["method"]].add(row["text"])
    assert set(texts) == METHODS
    assert len(rows) == 2 * len(METHODS)
    assert not texts["random-direction seed=0"] & texts["random-direction seed=1"]
    results = [row for row in read_csv(run / "results.csv", ("method",)) if row["experiment"] == "baselines"]
    assert {row["method"] for row in results} == METHODS
    counts = {m: sum(row["method"] == m for row in results) for m in METHODS}
    assert len(set(counts.values())) == 1
    comparisons = read_csv(run / "comparisons.csv", ("vs_method",))
    assert {row["vs_method"] for row in comparisons} == METHODS - {"none", "dom"}


def test_figure_and_page_show_each(run: Path) -> None:
    page, figure = (run / "report.html").read_text(), (run / "figures/baselines.svg").read_text()
    for name in METHODS - {"none", "dom"}:
        assert f'<th scope="row">{name}</th>' in page, name
        assert f"<!-- {name} -->" in figure, name


def test_two_judges_of_one_plugin_are_told_apart(tmp_path: Path) -> None:
    spans = {"name": "keyword", "keywords": ["wait"]}
    specs = PluginSpec(**spans), PluginSpec(name="keyword")
    assert told_apart([spec_settings("judges", spec) for spec in specs]) == [
        'keyword keywords=["wait"]',
        'keyword keywords=["wait","hmm"]',
    ]


def test_names_in_tables_stay_texts(tmp_path: Path) -> None:
    names = ["1", "1e3", "nan", "True", "007", "none", "inf"]
    write_csv(tmp_path / "t.csv", ("method", "label", "mean"), [{"method": n, "label": n, "mean": 0.5} for n in names])
    assert [
        (row["method"], row["label"], row["mean"]) for row in read_csv(tmp_path / "t.csv", ("method", "label"))
    ] == [(n, n, 0.5) for n in names]


def test_judges_of_one_name_share_a_folder_and_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers are kept by what was asked of which model; here each model's name is the label that it gives."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    text, names = "So x is 4.", ("deduction", "backtracking")

    def judge(url: str, model: str) -> LLMJudge:
        found = LLMJudge(base_url=url, model=model, format="structured", max_retries=0)
        found.open(tmp_path / "judges/llm", lambda done, total: None)
        return found

    with serving() as (url, state):
        state.reply = lambda body: completion(
            json.dumps({"sections": [{"label": body["model"], "text": body["messages"][-1]["content"]}]})
        )
        for _ in range(2):
            for name in names:
                assert judge(url, name).annotate([text]) == [[(0, len(text), name)]]
        assert state.asked[text] == 2  # once a model
