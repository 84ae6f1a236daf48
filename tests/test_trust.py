"""A stranger's recipe: what it can't do without the user's word, each refusal with its place and the way out."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from steerkit import registry
from steerkit.artifacts import VectorKey
from steerkit.errors import InputError, SteerkitError
from steerkit.recipe.load import load_arguments, load_recipe

HEAD = "extends: backtracking\nname: mine\n"
PLUGIN = """
import steerkit
from pathlib import Path

Path({told!r}).write_text("ran")

@steerkit.register("steerers", "flip-{number}")
class Flip(steerkit.Steerer):
    def edit(self, hidden, at):
        return -hidden
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder of its own; local plugins of one test are not there in the next."""
    before = set(sys.modules)
    monkeypatch.setattr(registry, "_local", {})
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield tmp_path / "here"
    for name in set(sys.modules) - before:
        if name.startswith("steerkit_local_"):
            del sys.modules[name]


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEAD + text)
    return str(path)


def refused(name: str, *overrides: str, **more: object) -> str:
    with pytest.raises(InputError) as caught:
        load_recipe(name, overrides, **more)  # type: ignore[arg-type]
    return str(caught.value)


def plugin(path: Path, number: int) -> Path:
    """A plugin file, and the file that it makes when it is run."""
    told = path.with_suffix(".told")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PLUGIN.format(told=str(told), number=number))
    return told


# --- code of model repositories ------------------------------------------------------------------------------------


def test_remote_code_needs_the_recipe_and_the_user(tmp_path: Path) -> None:
    name = write(tmp_path / "mine.yaml", "trust_remote_code: true\n")
    said = refused(name)
    assert f"{name}:3:1: the recipe runs Python code that the models' repositories bring along" in said
    assert "give --trust-remote-code" in said
    assert load_recipe(name, trust_remote_code=True).trust_remote_code
    assert not load_recipe("backtracking", trust_remote_code=True).trust_remote_code
    assert "--trust-remote-code" in refused("backtracking", "trust_remote_code=true")
    child = write(tmp_path / "child.yaml", "")
    Path(child).write_text("extends: ./mine.yaml\nname: child\n")
    assert "--trust-remote-code" in refused(child)
    assert "--trust-remote-code" in refused("backtracking", presets=[name])
    with pytest.raises(InputError, match="--trust-remote-code"):
        load_arguments(name)
    assert load_arguments(name, trust_remote_code=True).trust_remote_code
    assert not load_arguments(name, trust_remote_code=False).trust_remote_code


# --- plugin files --------------------------------------------------------------------------------------------------


def test_plugin_files_run_from_the_recipes_own_folder_alone(tmp_path: Path) -> None:
    inside, outside = plugin(tmp_path / "r/sub/in.py", 1), plugin(tmp_path / "out.py", 2)
    assert (
        load_recipe(write(tmp_path / "r/a.yaml", "plugins: [sub/in.py]\nsteerer: flip-1\n")).shared["steerer"]
        == "flip-1"
    )
    assert inside.exists()
    (tmp_path / "r/link.py").symlink_to(tmp_path / "out.py")
    (tmp_path / "r/linked").symlink_to(tmp_path)
    for path in ("../out.py", str(tmp_path / "out.py"), "link.py", "linked/out.py", "sub/../../out.py"):
        name = write(tmp_path / "r/b.yaml", f"plugins: [{path}]\n")
        said = refused(name)
        assert f"b.yaml:3:11: the recipe {path!r} is outside the recipe's folder ({tmp_path / 'r'})" in said
        assert "give --allow plugins" in said
    assert not outside.exists()
    assert load_recipe(name, ["steerer=flip-2"], allow=["plugins"]).shared["steerer"] == "flip-2"
    assert outside.exists()


def test_a_preset_or_parent_runs_files_of_its_own_folder_alone(tmp_path: Path) -> None:
    mine, theirs = plugin(tmp_path / "mine/x.py", 3), plugin(tmp_path / "theirs/x.py", 4)
    Path(name := write(tmp_path / "mine/a.yaml", "")).write_text("extends: ../theirs/p.yaml\nname: a\n")
    preset = write(tmp_path / "theirs/p.yaml", "plugins: [./x.py]\n")
    load_recipe(name)
    load_recipe("backtracking", presets=[preset])
    assert theirs.exists() and not mine.exists()
    write(tmp_path / "theirs/p.yaml", "plugins: [../mine/x.py]\n")
    assert "--allow plugins" in refused(name)
    assert not mine.exists()


def test_a_plugin_file_named_on_the_command_line_is_the_users_own(tmp_path: Path) -> None:
    told = plugin(tmp_path / "elsewhere/x.py", 5)
    load_recipe("backtracking", [f"plugins=[{tmp_path / 'elsewhere/x.py'}]"])
    assert told.exists()


def test_a_recipe_whose_name_looks_like_an_override_is_not_believed(tmp_path: Path, here: Path) -> None:
    told = plugin(tmp_path / "out.py", 6)
    write(here / "--set plugins.yaml", "plugins: [../out.py]\noutput_dir: /x\n")
    Path(name := write(here / "a.yaml", "")).write_text('extends: "--set plugins"\nname: a\n')
    said = refused(Path(name).name)
    assert "--allow plugins" in said and "--out /x" in said and not told.exists()


@pytest.mark.parametrize("path", ["a\\0b", "x" * 5000, "", ".", "/dev/zero", "loop"])
def test_plugin_paths_that_are_no_files(tmp_path: Path, path: str) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "mine.yaml" in refused(write(tmp_path / "mine.yaml", f'plugins: ["{path}"]\n'))


# --- files that are written ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/etc/x", "../../x", "a/../../x", "..", ".", "~/../../x", "out", "x" * 300 + "/../.."]
)
def test_a_recipes_folder_lies_below_the_current_one(tmp_path: Path, here: Path, path: str) -> None:
    (here / "out").symlink_to(tmp_path)
    said = refused(write(tmp_path / "mine.yaml", f"output_dir: {path}\n"))
    assert "mine.yaml:3:1: 'output_dir' is" in said and "which does not lie below the current folder" in said
    assert "if that is where you want it, say so: --out " in said


def test_the_users_own_folder_may_be_anywhere(tmp_path: Path) -> None:
    name = write(tmp_path / "mine.yaml", "output_dir: /etc/x\n")
    assert load_recipe(name, ["output_dir=../other"]).output_dir == "../other"
    assert load_arguments(name, output_dir="/tmp/y").output_dir == "/tmp/y"
    assert load_recipe(write(tmp_path / "mine.yaml", "output_dir: runs/x/y\n")).output_dir == "runs/x/y"


def test_answers_are_kept_below_the_current_folder(tmp_path: Path) -> None:
    name = write(tmp_path / "mine.yaml", "span_judge: {name: llm, cache: /etc/keys}\n")
    assert "'span_judge.cache' is '/etc/keys'" in refused(name)
    assert load_recipe(name, [f"span_judge.cache={tmp_path}"]).shared["span_judge"]["cache"] == str(tmp_path)


@pytest.mark.parametrize("name", ["../x", "a/b", "/etc", "", ".hidden", "x" * 101, "a\\nb", "a\\0"])
def test_names_that_are_no_names(tmp_path: Path, name: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f'extends: backtracking\nname: "{name}"\n')
    assert "mine.yaml:2:" in refused(str(path))


@pytest.mark.parametrize(
    "label", ["../../x", "/etc/passwd", "a\0b", "a\nb", "🙂", "x" * 500, "..", "", "a/b", "\u202egnp", "é", "a.b", "*?"]
)
def test_labels_make_safe_file_names(tmp_path: Path, label: str) -> None:
    name = VectorKey(source="base", label=label, window=(-13, -8)).file
    assert Path(name).name == name and name.isascii() and len(name) < 120 and name.endswith(".-13..-8.safetensors")
    (tmp_path / name).write_text("")
    other = VectorKey(source="base", label=label + "!", window=(-13, -8)).file
    assert name != other
    assert (
        VectorKey(source="base", label="example-testing", window=(0, 1)).file == "base.example-testing.0..1.safetensors"
    )


# --- servers, uploads, secrets -------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["span_judge", "agreement.judge", "prompts.source"])
def test_keys_and_texts_go_only_where_the_user_says(tmp_path: Path, place: str) -> None:
    options = {"name": "llm", "base_url": "https://elsewhere.example/v1", "api_key_env": "AWS_SECRET_ACCESS_KEY"}
    first, _, rest = place.partition(".")
    name = write(tmp_path / "mine.yaml", f"{first}: {json.dumps({rest: options} if rest else options)}\n")
    said = refused(name)
    assert "elsewhere.example is sent the run's texts, with the value of AWS_SECRET_ACCESS_KEY as the key" in said
    assert said.count("give --allow servers") == 1 and "mine.yaml:3:" in said
    load_recipe(name, allow=["servers"])
    own = [f"{place}.base_url=https://mine.example/v1", f"{place}.api_key_env=MY_KEY"]
    load_recipe(name, own)
    refused(name, own[0])
    load_recipe(name, [f"{place}.base_url=http://localhost:8000/v1"])
    load_recipe(name, [f"{place}.base_url=http://[::1]:8000/v1"])
    for near in ("http://localhost.example/v1", "http://127.0.0.1.example/v1", "http://0.0.0.0/v1"):
        options["base_url"] = near
        write(tmp_path / "mine.yaml", f"{first}: {json.dumps({rest: options} if rest else options)}\n")
        assert "--allow servers" in refused(name)


def test_uploads_need_the_users_word(tmp_path: Path) -> None:
    name = write(tmp_path / "mine.yaml", "push_to_hub: true\nhub_model_id: someone/else\n")
    assert "mine.yaml:3:1: the recipe uploads vectors in your name; if you trust it, give --allow push" in refused(name)
    load_recipe(name, allow=["push"])
    load_recipe(name, ["push_to_hub=true"])
    assert load_arguments(name, push_to_hub=False).push_to_hub is False


def test_what_can_not_be_allowed() -> None:
    with pytest.raises(SteerkitError, match="--allow plugin: did you mean 'plugins'"):
        load_recipe("backtracking", allow=["plugin"])


KEYS = ["hf_" + "aB3" * 11, "sk-" + "x1Y" * 12, "https://ada:hunter22@hub.example/x"]


@pytest.mark.parametrize("secret", KEYS)
def test_a_recipe_with_a_key_in_it_is_refused_without_repeating_it(tmp_path: Path, secret: str) -> None:
    for text in (
        f"about: use {secret}\n",
        f"layer: {secret}\n",
        f"score_judge: {{name: keyword, keywords: ['{secret}']}}\n",
    ):
        said = refused(write(tmp_path / "mine.yaml", text))
        assert "holds a key or a password; take it out" in said
        assert secret not in said and "hunter22" not in said
    said = refused("backtracking", f"about={secret}")
    assert "[secret]" in said and secret not in said and "hunter22" not in said


def test_errors_show_no_secret_of_the_environment_and_steer_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "plain-but-secret")
    monkeypatch.setenv("MY_SECRET", "short")
    said = str(
        SteerkitError("proxy http://u:pw@h: plain-but-secret, Bearer abc.def short \x1b[2J\u202e\x9b31m\ud800\n\tx")
    )
    assert said == ("proxy http://[secret]@h: [secret], Bearer [secret] short \\x1b[2J\\u202e\\x9b31m\\ud800\n\tx")
    assert str(SteerkitError("(Bearer abc:d.ef=): Bearer [key])")) == "(Bearer [secret]): Bearer [key])"
