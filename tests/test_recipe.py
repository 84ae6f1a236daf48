"""Recipes: every problem at once, each with its place and a way out; the shipped ones are valid."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from steerkit import registry
from steerkit.artifacts import PluginSpec
from steerkit.context import Settings
from steerkit.errors import InputError, SteerkitError
from steerkit.recipe.find import find_recipe, shipped
from steerkit.recipe.load import load_arguments, load_recipe
from steerkit.recipe.show import resolved_yaml
from steerkit.settings import Steering


@pytest.mark.parametrize("path", shipped(), ids=lambda p: p.stem)
def test_shipped_recipes_are_valid_and_say_how_to_run(path: Path) -> None:
    recipe = load_recipe(str(path))
    assert recipe.name == path.stem
    head = path.read_text().split("\n\n")[0]
    preset = path.stem.removeprefix("preset-")
    assert (f"steerkit recipe run {path.stem}" if preset == path.stem else f"--preset {preset}") in head
    assert "--set" in head


def problems_of(tmp_path: Path, text: str, *overrides: str) -> list[str]:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_recipe(str(path), overrides)
    return [str(problem).replace(f"{path}:", "") for problem in caught.value.problems]


def test_six_different_mistakes_are_named_with_their_lines(tmp_path: Path) -> None:
    found = problems_of(
        tmp_path,
        "extends: backtracking\n"
        "name: mine\n"
        "strenghts: [10]\n"  # 3 unknown key
        "temperature: hot\n"  # 4 wrong type
        "layer: 2\n"
        "layer: 3\n"  # 6 twice
        "bf16: no\n"  # 7 a YAML 1.1 boolean
        "fitter: {name: domm}\n"  # 8 unknown plugin
        "score_judge: {name: keyword, keyword: [wait]}\n"  # 9 unknown option of a plugin
        "strengths: [true]\n",  # 10 a boolean for a number
    )
    assert [p.split(":")[0] for p in found] == ["3", "4", "6", "7", "8", "9", "10"]
    text = "\n".join(found)
    assert "unknown key 'strenghts'; did you mean 'strengths'?" in text
    assert "'temperature' must be a number, not \"hot\"" in text
    assert "the key 'layer' stands twice; first at" in text
    assert "'bf16' must be true or false, not \"no\" (YAML reads it as text; write true or false)" in text
    assert "no fitter is called 'domm'; did you mean 'dom'?" in text
    assert "unknown key 'score_judge.keyword'; did you mean 'keywords'?" in text
    assert "'strengths.0' must be a number, not true" in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1\n", "2:1: not YAML"),
        ("- a\n- b\n", "1:1: a recipe is a mapping of keys to values"),
        ("", "1:1: the file is empty; a recipe is a mapping of keys to values; begin with `name: NAME`"),
        ("name: x\n", "1:1: 'models' is missing; Models of the run by name (or take another recipe's, with `extends:"),
        ("extends: paper\nexperiments: lens\n", "2:1: 'experiments' must be a list, not \"lens\" (write [lens])"),
        ("extends: backtracking\nsteerer:\n", "2:1: 'steerer' must be a name or a mapping, not null"),
        ("name: x\nextends: mine\n", "2:1: mine extends itself"),
        ("name: x\nextends: nosuch\n", "2:1: nosuch: no such recipe"),
        ("name: x\nextends:\n", "2:1: 'extends' must be the name or file of a recipe, not null"),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path: Path, text: str, expected: str) -> None:
    assert any(p.startswith(expected) for p in problems_of(tmp_path, text))


def test_a_question_and_a_name_are_not_inherited(tmp_path: Path) -> None:
    (tmp_path / "child.yaml").write_text("extends: backtracking\nlayer: 2\n")
    (tmp_path / "grandchild.yaml").write_text("extends: child\nname: own\nabout: Is it so?\n")
    child = load_recipe(str(tmp_path / "child.yaml"))
    assert (child.name, child.about, child.shared["layer"]) == ("child", "", 2)
    grandchild = load_recipe(str(tmp_path / "grandchild.yaml"), presets=["backtracking-smollm2"])
    assert (grandchild.name, grandchild.about) == ("own", "Is it so?")
    assert load_recipe("backtracking").about


def test_a_grandparent_that_is_missing_is_placed_where_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "child.yaml").write_text("layer: 2\n\nextends: nosuch\n")
    found = problems_of(tmp_path, "extends: child\n")
    assert found[0].startswith(f"{tmp_path / 'child.yaml'}:3:1: nosuch: no such recipe")


def test_windows_must_be_extracted(tmp_path: Path) -> None:
    found = problems_of(
        tmp_path, "extends: backtracking\nname: m\nfitter: {window: [-20, -15]}\noffsets: {starts: [-60, 0]}\n"
    )
    assert found[0].startswith("3:")
    assert "window -20..-15 is not extracted (there is -13..-8, -40..5); add it to extractor.windows" in found[0]
    assert found[1].startswith("4:")
    assert "window -60..-55 is outside the extracted" in found[1]


def test_numbers_are_read_as_yaml_1_2(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: backtracking\nname: mine\ntemperature: 1e-4\nabout: no\n")
    recipe = load_recipe(str(path))
    assert recipe.shared["temperature"] == 1e-4
    assert recipe.about == "no"


def test_overrides_are_checked_the_same_way(tmp_path: Path) -> None:
    recipe = load_recipe("backtracking", ["prompts.test=7", "fitter.scale=raw", "steerer.name=self-amplify"])
    given = recipe.shared
    assert (given["prompts"]["test"], given["fitter"]["scale"]) == (7, "raw")
    assert Settings(given).group(Steering).steerer.name == "self-amplify"
    with pytest.raises(InputError, match=r"--set layer=two: 'layer' must be a whole number, not \"two\""):
        load_recipe("backtracking", ["layer=two"])
    with pytest.raises(InputError, match=r"an override is written key"):
        load_recipe("backtracking", ["layer"])
    with pytest.raises(InputError, match=r"'strengths' needs at least 1 item; it is \[\]"):
        load_recipe("backtracking", ["strengths=[]"])
    with pytest.raises(InputError, match=r"strengths needs one above 0"):
        load_recipe("backtracking", ["strengths=[0]"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("chose.metric=x", "unknown key 'chose'; did you mean 'choose'?"),
        ("strengths=[0]", "strengths needs one above 0"),
        ("strengths.0=-1", "strengths are not negative here"),
        ("push_to_hub=true", "push_to_hub needs hub_model_id"),
        ("prompts.source.name=jsonl", "'prompts.source.path' is missing"),
        ("extractor.windows=[[1, 0]]", "window 1..0 ends before it begins"),
        ("models.base.wieghts=x", "unknown key 'models.base.wieghts'; did you mean 'weights'?"),
        ("models.other.adapter=x", "'models.other.weights' is missing"),
        ("writer=x", "'writer': no model is called 'x'; choose from base, reasoning"),
        ("experiments.9=texts", "'experiments' is a list and has no item 9: items are numbered from 0, the last is"),
        ("layer.x=1", "'layer' is 1, which has no parts; set 'layer' itself"),
        ("extends=fig1", "unknown key 'extends'; name a preset"),
    ],
)
def test_what_the_command_line_gave_is_named_as_given(tmp_path: Path, given: str, message: str) -> None:
    (found,) = problems_of(tmp_path, "extends: backtracking\nname: mine\n", given)
    assert found.startswith(f"--set {given}: ") and message in found


def test_a_group_that_does_not_fit_together_is_placed_at_the_keys_that_are_named(tmp_path: Path) -> None:
    head = "extends: backtracking\nname: mine\n"
    assert problems_of(tmp_path, head + "top_k: 4\nsampling: model\n")[0].startswith("4:1: sampling: model takes")
    assert problems_of(tmp_path, head + "device: cpu\ndevice_map: auto\n")[0].startswith("3:1: give device or")
    found = problems_of(tmp_path, head + "device: cpu\n", "device_map=auto")
    assert found == ["--set device_map=auto: " + found[0].partition(": ")[2]]  # the file alone was valid
    assert problems_of(tmp_path, head + "strengths: [0]\n")[0].startswith("3:1: strengths needs one above 0")


def test_arguments_are_changed_as_a_recipe_is_extended(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "extends: backtracking\nname: mine\nprompts: {test: 16}\nfitter: {scale: raw}\n"
        "span_judge: {name: keyword, keywords: [hmm]}\nstrengths: [30]\n"
    )
    given = load_arguments(
        "backtracking",
        prompts={"test": 16},
        fitter={"scale": "raw"},
        span_judge=PluginSpec(name="keyword", keywords=["hmm"]),
        strengths=[30],
        output_dir=tmp_path / "run",
    )
    assert given.shared == load_recipe(str(path)).shared
    assert given.shared["prompts"] == {"source": "pocket", "extract": 800, "choose": 64, "test": 16}
    assert given.output_dir == str(tmp_path / "run")
    assert load_arguments("backtracking", executor={"name": "ray", "workers": 2}).executor.options == {"workers": 2}


def test_people_s_labels_may_be_a_file_or_a_list_of_files() -> None:
    for labels, found in (("a.jsonl", ("a.jsonl",)), ("[a.jsonl, b.jsonl]", ("a.jsonl", "b.jsonl"))):
        given = load_recipe("backtracking", [f"agreement.judge={{name: human, labels: {labels}}}"])
        spec = PluginSpec.model_validate(given.shared["agreement"]["judge"])
        assert registry.build("judges", spec).config.labels == found


def test_a_wrong_argument_is_named_as_it_was_given() -> None:
    with pytest.raises(InputError) as caught:
        load_arguments("backtracking", bf16="maybe", seed=-1, threads=object())
    assert [problem.where for problem in caught.value.problems] == [
        "load_arguments(seed=...)",
        "load_arguments(bf16=...)",
        "load_arguments(threads=...)",
    ]


def test_naming_another_plugin_drops_the_old_ones_options(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: backtracking\nname: mine\nspan_judge: {name: keyword}\n")
    assert load_recipe(str(path)).shared["span_judge"] == {"name": "keyword"}


def test_a_local_file_comes_before_a_shipped_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("backtracking.yaml").write_text("extends: backtracking-llama-8b\nname: mine\n")
    assert find_recipe("backtracking") == Path("backtracking.yaml")
    with pytest.raises(SteerkitError, match=r"no such recipe.*did you mean 'backtracking'"):
        find_recipe("backtraking")
    Path("runs").mkdir()
    Path("runs/recipe.yaml").write_text("name: mine\n")
    with pytest.raises(SteerkitError, match=r"runs: is the folder of a run, not a recipe; runs/recipe.yaml is"):
        find_recipe("runs")


def test_the_resolved_recipe_is_a_recipe(tmp_path: Path) -> None:
    recipe = load_recipe("backtracking")
    for documented in (False, True):
        path = tmp_path / f"{documented}.yaml"
        path.write_text(resolved_yaml(recipe, documented=documented))
        again = load_recipe(str(path))
        assert resolved_yaml(again) == resolved_yaml(recipe)
    assert (
        "# Rows in a generation batch; when one ends, another takes its place. `auto` measures what" in path.read_text()
    )
    assert yaml.safe_load(path.read_text())["per_device_batch_size"] == recipe.shared["per_device_batch_size"]


PLUGIN = """
import steerkit

@steerkit.register("steerers", "flip")
class Flip(steerkit.Steerer):
    direction = "none"

    def edit(self, hidden, at):
        return -hidden
"""


def test_a_recipe_loads_a_plugin_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "flip.py").write_text(PLUGIN)
    path = tmp_path / "mine.yaml"
    path.write_text("extends: backtracking\nname: mine\nplugins: [./flip.py]\nsteerer: flip\n")
    assert load_recipe(str(path)).shared["steerer"] == "flip"


def test_a_plugin_file_that_fails_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("x = 1\nraise RuntimeError('no luck')\n")
    found = problems_of(tmp_path, "extends: backtracking\nname: m\nplugins: [./broken.py, ./gone.py]\n")
    assert "broken.py:2: the plugin file failed: RuntimeError: no luck" in found[0]
    assert "gone.py: no such plugin file" in found[1]
