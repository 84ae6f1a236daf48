"""Conditions are told apart by every option: two baselines of one plugin, labels of any name, values given twice."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml
from llm_server import KEY, completion, serving
from pocket import SIZES
from report_run import effect, write_run
from steerkit_plugins.judges.llm.judge import LLMJudge

from steerkit import load_recipe
from steerkit.conditions import Planner, distinct
from steerkit.data.trace import Prompt
from steerkit.errors import InputError
from steerkit.methods import Methods, method_names, told_apart
from steerkit.report.compare import condition_table
from steerkit.report.run import Run
from steerkit.run import SteeringTrainer
from steerkit.artifacts import PluginSpec
from steerkit.settings import Recipe, SteeringArguments
from steerkit.steps.generations import steering_jobs
from steerkit.store.files import read_whole_lines
from steerkit.tables import read_csv, write_csv

RANDOM = "{name: random-direction, seed: %s}"
TWO = f"baselines=[{RANDOM % 0}, {RANDOM % 1}]"


def planner_of(*settings: str) -> Planner:
    recipe = load_recipe("backtracking", settings)
    return Planner(recipe, 4, defaultdict(lambda: 1.0))


def baselines_of(*settings: str) -> dict[str, str]:
    """Method → condition id, of the baselines at the first strength."""
    planner = planner_of("strengths=[30]", *settings)
    (found,) = (e for e in planner.test(30.0) if e.name == "baselines")
    ids = [c.id for c in found.conditions]
    assert len(set(ids)) == len(ids) == len({c.method for c in found.conditions})
    return {c.method: c.id for c in found.conditions}


# --- names and ids --------------------------------------------------------------------------------------------------


def test_two_of_one_plugin_are_two_conditions() -> None:
    found = baselines_of(TWO, "baseline_labels=[]")
    assert set(found) == {"none", "dom", "random-direction seed=0", "random-direction seed=1"}


def test_one_alone_has_its_bare_name_and_its_id_covers_its_options() -> None:
    first, other = (baselines_of(f"baselines=[{RANDOM % seed}]", "baseline_labels=[]") for seed in (0, 1))
    assert set(first) == set(other) == {"none", "dom", "random-direction"}
    assert first["random-direction"] != other["random-direction"]
    assert first["random-direction"] == baselines_of("baselines=[random-direction]")["random-direction"]


def test_the_ids_of_a_recipe_without_options_are_those_that_runs_have() -> None:
    """As they were before ids covered options, so that texts that were made keep theirs."""
    assert baselines_of() == {
        "none": "1c8de9aa2fc848a1",
        "dom": "6a5412a67990e4c7",
        "overall-mean": "9e26e512e580b971",
        "gaussian-noise": "676b5982b0b05a9e",
        "self-amplify": "14ae76d982dd8e27",
        "deduction": "9b5c2e74689f562c",
        "initializing": "fbeb9b78b05b1da6",
    }


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
    steerers = [{"name": "dom"}, {"name": "x"}]
    found = method_names("dom", steerers, ["none", "dom", "x", "x (label)", "free"])
    assert found == (["dom (steerer)", "x"], ["none (label)", "dom (label)", "x (label)", "x (label) (label)", "free"])


def test_labels_may_be_called_like_methods() -> None:
    found = baselines_of("baselines=[overall-mean]", "baseline_labels=[none, dom, overall-mean]")
    assert set(found) == {"none", "dom", "overall-mean", "none (label)", "dom (label)", "overall-mean (label)"}


def test_each_condition_is_steered_by_its_own_plugin(tmp_path: Path) -> None:
    """Also where the main steerer and baselines are of one plugin, and a label is called like one."""
    settings = [
        f"steerer={RANDOM % 7}",
        TWO,
        "baseline_labels=[random-direction]",
        f"output_dir={tmp_path}/run",
        "strengths=[30]",
        "prompts.test=1",
    ]
    trainer = SteeringTrainer.from_recipe(load_recipe("backtracking", settings))
    planner = Planner(trainer.args, 4, defaultdict(lambda: 1.0))
    wanted = distinct([e for e in planner.test(30.0) if e.name == "baselines"])
    jobs = steering_jobs(trainer, wanted, [Prompt(id="a", prompt="Max has 3 cups.", split="test")], {})
    methods = {condition.id: condition.method for _, condition in wanted}
    seeds = {methods[job.names[0]]: job.row.edits[0].intervention.config.seed for job in jobs if job.row.edits}
    assert seeds == {
        "dom": 7,
        "random-direction (label)": 7,
        "random-direction seed=0": 0,
        "random-direction seed=1": 1,
    }


# --- what is refused ------------------------------------------------------------------------------------------------


def refused(path: Path, text: str) -> list[str]:
    path.write_text("extends: backtracking\nname: mine\n" + text)
    with pytest.raises(InputError) as caught:
        load_recipe(str(path))
    return [str(problem).removeprefix(f"{path}:") for problem in caught.value.problems]


def test_identical_baselines_and_the_fitters_own_label_are_refused_with_their_place(tmp_path: Path) -> None:
    text = "baselines:\n- self-amplify\n- random-direction\n- {name: random-direction, seed: 0}\n"
    assert refused(tmp_path / "mine.yaml", text + "baseline_labels: [deduction, backtracking]\n") == [
        "6:3: 'baselines.2' is the same baseline as 'baselines.1'; leave one out, or change an option",
        "7:30: 'baseline_labels.1' is 'backtracking', the fitter's own label; leave it out",
    ]
    recipe = load_recipe("backtracking")
    same = recipe.model_copy(update={"baselines": (PluginSpec(name="self-amplify"),) * 2})
    with pytest.raises(InputError, match=r"baselines\.1: is the same baseline as 'baselines\.0'"):
        Methods.of(same)


LISTS = {
    "strengths: [30, 45, 30.0]": "'strengths' has 30.0 twice",
    "baseline_labels:\n- deduction\n- initializing\n- deduction": "'baseline_labels' has 'deduction' twice",
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
    data = load_recipe("backtracking").model_dump()
    with pytest.raises(ValueError, match=r"30\.0 stands twice"):
        SteeringArguments(**{k: data[k] for k in SteeringArguments.model_fields} | {"strengths": (30, 30.0)})


@pytest.mark.parametrize("name", sorted(p.stem for p in (Path(__file__).parent.parent / "recipes").glob("[!p]*.yaml")))
def test_shipped_recipes_have_no_condition_twice(name: str) -> None:
    recipe: Recipe = load_recipe(name)
    for experiment in Planner(recipe, 64, defaultdict(lambda: 1.0)).test(recipe.nonzero[0]):
        ids = [c.id for c in experiment.conditions]
        assert len(set(ids)) == len(ids)


# --- in tables, figures and reports ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two random directions, and with labels called like other methods and like numbers."""
    folder = tmp_path_factory.mktemp("methods")
    patterns = json.loads(json.dumps(load_recipe("backtracking").span_judge.options["patterns"]))
    renamed = {"deduction": "random-direction", "initializing": "1", "uncertainty-estimation": "none"}
    judge = {"name": "rules", "patterns": {renamed.get(k, k): v for k, v in patterns.items()}}
    settings = {
        "span_judge": judge,
        "baselines": [{"name": "random-direction", "seed": seed} for seed in (0, 1)],
        "baseline_labels": ["random-direction", "1", "none"],
        "strengths": [30],
        "prompts.choose": 2,
        "prompts.test": 2,
        "transfer": False,
        "offsets": None,
        "layers": None,
        "output_dir": str(folder),
    }
    given = [f"{name}={json.dumps(value)}" for name, value in settings.items()]
    return SteeringTrainer.from_recipe(load_recipe("backtracking", [*SIZES, *given])).run()


RANDOMS = {"random-direction seed=0", "random-direction seed=1"}
METHODS = {"none", "dom", *RANDOMS, "random-direction (label)", "1", "none (label)"}


def test_every_condition_has_its_own_texts_and_rows(run: Path) -> None:
    rows = [row for row in read_whole_lines(run / "generations.jsonl") if row["split"] == "test"]
    texts: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        texts[row["method"]].add(row["text"])
    assert set(texts) == METHODS
    assert len(rows) == 2 * len(METHODS)
    assert not texts["random-direction seed=0"] & texts["random-direction seed=1"]
    results = [row for row in read_csv(run / "results.csv") if row["experiment"] == "baselines"]
    assert {row["method"] for row in results} == METHODS
    counts = {m: sum(row["method"] == m for row in results) for m in METHODS}
    assert len(set(counts.values())) == 1
    comparisons = read_csv(run / "comparisons.csv")
    assert {row["vs_method"] for row in comparisons} == METHODS - {"none", "dom"}


def test_figure_and_page_show_each(run: Path) -> None:
    page, figure = (run / "report.html").read_text(), (run / "figures/baselines.svg").read_text()
    for name in METHODS - {"none", "dom"}:
        assert f">{name}</td>" in page, name
        assert f"<!-- {name} -->" in figure, name


def test_two_judges_of_one_plugin_are_told_apart(tmp_path: Path) -> None:
    spans = {"name": "keyword", "keywords": ["wait"]}
    assert told_apart([PluginSpec(**spans).settings("judges"), PluginSpec(name="keyword").settings("judges")]) == [
        'keyword keywords=["wait"]',
        'keyword keywords=["wait","hmm"]',
    ]


def test_names_in_tables_stay_texts(tmp_path: Path) -> None:
    names = ["1", "1e3", "nan", "True", "007", "none", "inf"]
    write_csv(tmp_path / "t.csv", ("method", "label", "mean"), [{"method": n, "label": n, "mean": 0.5} for n in names])
    assert [(row["method"], row["label"], row["mean"]) for row in read_csv(tmp_path / "t.csv")] == [
        (n, n, 0.5) for n in names
    ]


def test_two_runs_are_matched_by_what_baselines_are(tmp_path: Path) -> None:
    """One run has one random direction, the other two, which are told apart: seed 0 is held against seed 0."""
    runs = []
    for name, seeds in (("one", (0,)), ("two", (0, 1))):
        folder = tmp_path / name
        folder.mkdir()
        write_run(folder, effect(0.1), kept=("baselines",))
        settings = [{"name": "random-direction", "seed": seed} for seed in seeds]
        recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"baselines": settings}, allow_unicode=True))
        names = method_names("dom", settings, [])[0]
        for table in ("results.csv", "comparisons.csv"):
            text = (folder / table).read_text()
            (folder / table).write_text(text.replace("overall-mean", names[0]).replace("gaussian-noise", names[-1]))
        runs.append(Run.read(folder))
    for a, b, name in ((0, 1, "random-direction"), (1, 0, "random-direction seed=0")):
        methods = [row[1] for row in condition_table((runs[a], runs[b])).rows]
        assert name in methods and "random-direction seed=1" not in methods


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
