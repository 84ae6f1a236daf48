"""What a plugin's identity takes in: its code wherever it comes from, all its options, the files that it reads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from steerkit_plugins.engines.vllm import _pickled

from steerkit import registry
from steerkit.artifacts import PluginSpec
from steerkit.context import Settings
from steerkit.errors import SteerkitError
from steerkit.identity import plugin_identity, spec_identity, spec_settings
from steerkit.interventions.steering import Edit
from steerkit.recipe.load import load_recipe
from steerkit.settings import Steering
from steerkit.store.folder import differences
from steerkit.store.identity import changes, made_of

STEERER = """
import steerkit
{imports}

class Settings(steerkit.Config):
    gain: float = {gain}
    \"\"\"Gain.\"\"\"

@steerkit.register("steerers", "{name}")
class Mine(steerkit.Steerer):
    Config = Settings

    def edit(self, hidden, at):
        {inside}
        return {value}
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder; local plugins of one test are not there in the next."""
    monkeypatch.setattr(registry, "_local", {})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, *, imports: str = "", inside: str = "pass", value: Any = 1, gain: float = 1.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(STEERER.format(name="mine", imports=imports, inside=inside, value=value, gain=gain))
    return path


def load(path: Path) -> tuple[Any, Any]:
    """What the plugin of a file answers, and its identity's key."""
    registry.load_file(path)
    plugin = registry.build("steerers", PluginSpec(name="mine"))
    return plugin.edit(None, None), plugin_identity("steerers", plugin).key()


# --- local files and their helpers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("imports", "inside", "value", "helper"),
    [
        ("import helper", "pass", "helper.answer()", "helper.py"),
        ("import helper as other", "pass", "other.answer()", "helper.py"),
        ("from helper import answer as say", "pass", "say()", "helper.py"),
        ("from . import helper", "pass", "helper.answer()", "helper.py"),
        ("from .helper import *", "pass", "answer()", "helper.py"),
        ("", "import helper", "helper.answer()", "helper.py"),
        ("", "from .helper import answer", "answer()", "helper.py"),
        ("import kit.deep.helper", "pass", "kit.deep.helper.answer()", "kit/deep/helper.py"),
        ("import kit.deep.helper as h", "pass", "h.answer()", "kit/deep/helper.py"),
        ("from kit.deep import helper", "pass", "helper.answer()", "kit/deep/helper.py"),
        ("from kit import answer", "pass", "answer()", "kit/__init__.py"),
        ("from importlib import import_module", "h = import_module('.helper', __package__)", "h.answer()", "helper.py"),
        ("import importlib as i\nh = i.import_module('.hel' + 'per', __package__)", "pass", "h.answer()", "helper.py"),
    ],
)
def test_helpers_count_and_are_loaded_again(here: Path, imports: str, inside: str, value: str, helper: str) -> None:
    path = write(here / "mine.py", imports=imports, inside=inside, value=value)
    if helper.startswith("kit"):
        (here / "kit/deep").mkdir(parents=True)
        (here / "kit/__init__.py").write_text("")
    (here / helper).write_text("def answer():\n    return 'one'\n")
    first, key = load(path)
    assert first == "one"
    assert load(path) == ("one", key)
    (here / helper).write_text("def answer():\n    return 'two'\n")  # in the same second, of the same size
    second, other = load(path)
    assert (second, other == key) == ("two", False)
    (here / helper).write_text("def answer():\n    return 'one'\n")
    assert load(path) == ("one", key)
    assert not list(here.rglob("__pycache__"))


def test_a_helper_of_a_helper_and_of_a_package(here: Path) -> None:
    path = write(here / "mine.py", imports="from kit.first import say", value="say()")
    (here / "kit").mkdir()
    (here / "kit/__init__.py").write_text("")
    (here / "kit/first.py").write_text("from .second import say\nimport third\n")
    (here / "kit/second.py").write_text("from third import WORD\ndef say():\n    return WORD\n")
    (here / "third.py").write_text("WORD = 'one'\n")
    (here / "fourth.py").write_text("WORD = 'unused'\n")
    first, key = load(path)
    (here / "fourth.py").write_text("WORD = 'other'\n")
    assert load(path) == (first, key) == ("one", key)
    (here / "third.py").write_text("WORD = 'two'\n")
    assert load(path)[0] == "two"
    assert load(path)[1] != key


def test_each_folder_has_helpers_of_its_own(here: Path) -> None:
    """Two recipes, each with a helper.py: neither finds the other's, also inside functions."""
    for folder in ("one", "two"):
        path = write(
            here / folder / f"{folder}.py", imports="import helper", inside="import late", value="helper.W + late.W"
        )
        path.write_text(path.read_text().replace('"mine"', f'"{folder}"'))
        for name in ("helper", "late"):
            (here / folder / f"{name}.py").write_text(f"W = '{name} of {folder}. '\n")
        recipe = {"extends": "backtracking", "name": folder, "plugins": [f"{folder}.py"], "steerer": folder}
        (here / folder / "mine.yaml").write_text(json.dumps(recipe))
    for _ in range(2):
        for folder in ("one", "two"):
            settings = Settings(load_recipe(str(here / folder / "mine.yaml")).shared)
            spec = settings.group(Steering).steerer
            assert registry.build("steerers", spec).edit(None, None) == f"helper of {folder}. late of {folder}. "
    assert "helper" not in sys.modules


def test_names_beside_that_are_not_helpers(here: Path) -> None:
    """steerkit itself, the standard library, and folders without Python files stay what they are."""
    for name in ("json.py", "steerkit.py"):
        (here / name).write_text("raise ValueError('not me')\n")
    (here / "numpy").mkdir()
    (here / "numpy/rows.txt").write_text("1\n")
    path = write(here / "mine.py", imports="import json, numpy", value="json.dumps(int(numpy.int64(3)))")
    assert load(path)[0] == "3"


def test_an_edited_file_registers_anew_and_a_copy_is_a_conflict(here: Path) -> None:
    path = write(here / "mine.py", value="'one'")
    assert load(path)[0] == "one"
    write(path, value="'two'")
    assert load(path)[0] == "two"
    text = path.read_text()
    path.write_text(text.replace('"mine"', '"other"'))
    registry.load_file(path)
    with pytest.raises(SteerkitError, match="no steerer is called 'mine'"):
        registry.get("steerers", "mine")
    path.write_text(text)
    assert load(path)[0] == "two"
    copy = here / "copy/mine.py"
    copy.parent.mkdir()
    copy.write_text(text)
    with pytest.raises(
        SteerkitError, match=r"two steerers are called 'mine': .*/mine\.py and .*/copy/mine\.py; rename"
    ):
        registry.load_file(copy)


@pytest.mark.parametrize("order", [("base", "mine"), ("mine", "base")])
def test_a_plugin_file_that_another_one_imports_is_run_once(here: Path, order: tuple[str, str]) -> None:
    ran = "from pathlib import Path\nwith Path('ran').open('a') as file:\n    file.write('ran ')"
    write(here / "base.py", imports=ran).write_text((here / "base.py").read_text().replace('"mine"', '"base"'))
    derived = "import base\nimport steerkit\n@steerkit.register('steerers', 'mine')\nclass Mine(base.Mine):\n    pass\n"
    (here / "mine.py").write_text(derived)
    for name in order:
        registry.load_file(here / f"{name}.py")
    assert (here / "ran").read_text() == "ran "
    assert issubclass(registry.get("steerers", "mine"), registry.get("steerers", "base"))
    key = spec_identity("steerers", PluginSpec(name="mine")).key()
    (here / "base.py").write_text((here / "base.py").read_text().replace("return 1", "return 2"))
    for name in order:
        registry.load_file(here / f"{name}.py")
    assert spec_identity("steerers", PluginSpec(name="mine")).key() != key
    assert registry.get("steerers", "mine")().edit(None, None) == 2


def test_a_broken_edit_is_told_and_can_be_mended(here: Path) -> None:
    path = write(here / "mine.py", imports="import helper", value="helper.W")
    (here / "helper.py").write_text("W = 1\n")
    first = load(path)
    (here / "helper.py").write_text("W = \n")
    with pytest.raises(SteerkitError, match=r"mine\.py:3: the plugin file failed: SyntaxError"):
        registry.load_file(path)
    (here / "helper.py").write_text("W = 1\n")
    assert load(path) == first


def test_a_helper_goes_along_to_vllms_workers(here: Path) -> None:
    """They know neither the plugin's module nor its helper's."""
    pytest.importorskip("cloudpickle")
    path = write(here / "mine.py", imports="import helper\nfrom helper import answer", value="answer() + helper.W")
    (here / "helper.py").write_text("W = 1\ndef answer():\n    return W\n")
    load(path)
    edit = Edit(registry.build("steerers", PluginSpec(name="mine")), 0, 1.0, None, "all")
    (here / "edits").write_bytes(_pickled([edit]))
    code = "import pickle; print(pickle.load(open('edits', 'rb'))[0].intervention.edit(None, None))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2"


def test_what_is_running_is_told_and_not_what_the_file_says_now(here: Path) -> None:
    """A class that was loaded before an edit keeps its identity: it makes the results of the older source."""
    path = write(here / "mine.py", value=1)
    _, key = load(path)
    old = registry.build("steerers", PluginSpec(name="mine"))
    write(path, value=2)
    assert plugin_identity("steerers", old).key() == key
    assert load(path)[1] != key
    assert plugin_identity("steerers", old).key() == key


def test_line_endings_names_and_times_do_not_count(here: Path) -> None:
    path = write(here / "one/mine.py", imports="import helper", value=1)
    (here / "one/helper.py").write_text("W = 1\n")
    _, key = load(path)
    registry._local.clear()
    (here / "two").mkdir()
    (here / "two/other.py").write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    (here / "two/helper.py").write_text("W = 1\n")
    assert load(here / "two/other.py")[1] == key


def test_a_default_that_was_changed_makes_another_key_also_without_its_source(here: Path) -> None:
    path = write(here / "mine.py", gain=1.0)
    load(path)
    one = registry.build("steerers", PluginSpec(name="mine"))
    write(path, gain=2.0)
    load(path)
    two = registry.build("steerers", PluginSpec(name="mine"))
    assert one.config.gain == 1.0
    assert [plugin_identity("steerers", p).settings["gain"] for p in (one, two)] == [1.0, 2.0]


def test_a_plugin_derived_from_another_one_counts_both(here: Path) -> None:
    path = here / "mine.py"
    path.write_text(
        "import steerkit\nfrom steerkit_plugins.judges.keyword import KeywordJudge\n"
        "@steerkit.register('judges', 'mine')\nclass Mine(KeywordJudge):\n    pass\n"
    )
    registry.load_file(path)
    code = spec_identity("judges", PluginSpec(name="mine")).code
    own = spec_identity("judges", PluginSpec(name="keyword")).code
    assert set(code) == {"", "steerkit_plugins.judges.keyword"}
    assert code["steerkit_plugins.judges.keyword"] == own[""]


# --- options and data -----------------------------------------------------------------------------------------------


def test_explicit_defaults_are_no_other_plugin_and_how_is_not_what() -> None:
    def key(name: str, **options: Any) -> Any:
        return spec_identity("judges", PluginSpec(name=name, **options)).key()

    assert key("keyword") == key("keyword", substring=False, keywords=("wait", "hmm"))
    assert key("keyword") != key("keyword", substring=True)
    assert key("llm") == key("llm", max_retries=3, cache="/elsewhere", batch=True)
    assert key("llm") != key("llm", model="another")
    assert spec_settings("judges", PluginSpec(name="llm")) == spec_settings("judges", PluginSpec(name="llm", timeout=5))


def test_the_order_of_a_mapping_counts() -> None:
    """The rules judge tries its labels one after the other."""
    patterns = {"backtracking": ["^Wait"], "doubt": ["^W"]}
    turned = dict(reversed(patterns.items()))
    one, other = (spec_identity("judges", PluginSpec(name="rules", patterns=p)) for p in (patterns, turned))
    assert one.key() != other.key()
    assert differences({"span_judge": {"patterns": patterns}}, {"span_judge": {"patterns": turned}}) == [
        "span_judge.patterns is in another order"
    ]


def test_options_without_an_order_are_the_same_in_every_process(here: Path) -> None:
    path = write(here / "mine.py")
    path.write_text(path.read_text().replace("gain: float = 1.0", "gain: frozenset[str] = frozenset('abcdefgh')"))
    load(path)
    assert spec_identity("steerers", PluginSpec(name="mine")).settings["gain"] == list("abcdefgh")


def edited(kind: str, spec: dict[str, Any], path: Path) -> tuple[list[str], bool]:
    """What is told when a data file of a plugin is edited, and whether another name for it makes another key."""
    before = spec_identity(kind, PluginSpec(**spec))
    text = path.read_bytes()
    path.write_bytes(text + b"\n")
    told = changes(made_of([before])[before.title], after := spec_identity(kind, PluginSpec(**spec)))
    assert after.key() != before.key()
    path.write_bytes(text)
    assert spec_identity(kind, PluginSpec(**spec)).key() == before.key()
    renamed = path.with_name(f"other-{path.name}")
    path.rename(renamed)
    spec = json.loads(json.dumps(spec).replace(path.name, renamed.name))
    same = spec_identity(kind, PluginSpec(**spec))
    return told, same.key() == before.key() and not changes(made_of([before])[before.title], same)


@pytest.mark.parametrize(
    ("kind", "spec", "file"),
    [
        ("prompts", {"name": "jsonl", "path": "rows.jsonl"}, "rows.jsonl"),
        ("prompts", {"name": "dataset", "path": "json", "data_files": "data/*rows.jsonl"}, "data/rows.jsonl"),
        ("prompts", {"name": "dataset", "path": "json", "data_files": ("a.jsonl", "d/rows.jsonl")}, "d/rows.jsonl"),
        ("judges", {"name": "human", "labels": ["ann.jsonl"]}, "ann.jsonl"),
        ("judges", {"name": "human", "labels": ["ann.jsonl"], "traces": "t.jsonl"}, "t.jsonl"),
        ("judges", {"name": "llm", "taxonomy": "labels.yaml"}, "labels.yaml"),
    ],
)
def test_data_files_count_by_their_contents(here: Path, kind: str, spec: dict[str, Any], file: str) -> None:
    for name in {file, "ann.jsonl", "a.jsonl"}:
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text("- backtracking: turns back\n")
    told, same = edited(kind, spec, here / file)
    assert told == [f"{file} ({kind} {spec['name']}) changed"]
    assert same


def test_a_folder_of_data_counts_with_all_that_is_in_it(here: Path) -> None:
    (here / "data/train").mkdir(parents=True)
    (here / "data/train/0.parquet").write_bytes(b"rows")
    spec = PluginSpec(name="dataset", path="data")
    before = spec_identity("prompts", spec)
    (here / "data/train/1.parquet").write_bytes(b"more")
    after = spec_identity("prompts", spec)
    assert after.key() != before.key()
    assert spec_identity("prompts", PluginSpec(name="dataset", path="someone/data")).files == {}


# --- installed distributions ----------------------------------------------------------------------------------------


def install(site: Path, code: str, version: str, *, url: dict[str, Any] | None = None, listed: bool = True) -> None:
    """A package with a plugin and a helper, as an installer leaves it."""
    (site / "nice_kit").mkdir(parents=True, exist_ok=True)
    (site / "nice_kit/__init__.py").write_text("")
    (site / "nice_kit/helper.py").write_text(code)
    text = "from steerkit.interfaces import Steerer\nfrom nice_kit import helper\nclass Nice(Steerer):\n"
    (site / "nice_kit/plugin.py").write_text(text + "    def edit(self, hidden, at): return helper.W\n")
    for old in site.glob("*.dist-info"):
        for file in old.iterdir():
            file.unlink()
        old.rmdir()
    info = site / f"nice_kit-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: nice-kit\nVersion: {version}\n")
    (info / "entry_points.txt").write_text("[steerkit.steerers]\nnice = nice_kit.plugin:Nice\n")
    if listed:
        (info / "RECORD").write_text("nice_kit/plugin.py,,\nnice_kit/helper.py,,\n")
    if url:
        (info / "direct_url.json").write_text(json.dumps(url))


def installed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The identity of that plugin, as a process that has just begun finds it."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "nice_kit"]:
        monkeypatch.delitem(sys.modules, name)
    registry._installed.cache_clear()
    return spec_identity("steerers", PluginSpec(name="nice"), "steerer nice")


EDITABLE = {"url": "file:///src", "dir_info": {"editable": True}}


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({}, []),  # its version says what is in it
        ({"url": EDITABLE}, ["source (steerer nice) changed"]),
        ({"url": {"url": "file:///src", "dir_info": {}}}, ["source (steerer nice) changed"]),  # pip install ./src
        ({"listed": False}, ["source (steerer nice) changed"]),  # in development, on the path
    ],
)
def test_a_distribution_counts_by_version_and_by_source_where_the_version_stays(
    here: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any], told: list[str]
) -> None:
    site = here / "site-packages"
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    install(site, "W = 1\n", "1.2", **more)
    first = installed(monkeypatch)
    assert installed(monkeypatch).key() == first.key()
    install(site, "W = 2\n", "1.2", **more)
    second = installed(monkeypatch)
    assert changes(made_of([first])["steerer nice"], second) == told
    assert (second.key() != first.key()) == bool(told)
    install(site, "W = 2\n", "1.3", **more)
    third = installed(monkeypatch)
    assert third.key() != second.key()
    assert changes(made_of([second])["steerer nice"], third) == ["nice-kit (steerer nice) is 1.3 and was 1.2"]


def test_a_built_in_counts_by_its_own_source() -> None:
    """So that an upgrade that leaves a plugin alone leaves alone what it made."""
    rules, keyword = (
        spec_identity("judges", PluginSpec(name=name, **options))
        for name, options in (
            ("rules", {"patterns": {"a": ["b"]}}),
            ("keyword", {}),
        )
    )
    assert rules.code[""].startswith("sha256:") and rules.code != keyword.code


def test_a_step_of_the_core_counts_by_the_release_alone() -> None:
    """It imports most of the core: by its source, every fix would do all work again."""
    for name in ("prompts", "traces", "statistics", "generations", "findings"):
        assert registry.get("steps", name).code.versions == {"": "steerkit-hf"}
    layers = registry.get("experiments", "layers").code.versions
    assert layers[""].startswith("sha256:")


# --- notebooks and scripts ------------------------------------------------------------------------------------------

CELL = """
import steerkit
@steerkit.register("steerers", "noted")
class Noted(steerkit.Steerer):
    direction = "none"
    def edit(self, hidden, at):
        return {value}
"""
NOTEBOOK = """
import json, sys, warnings
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
found = []
for cells in json.loads(sys.argv[1]):
    for cell in cells:
        shell.run_cell(cell).raise_error()
    from steerkit.artifacts import PluginSpec
    from steerkit.identity import spec_identity
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        key = spec_identity("steerers", PluginSpec(name="noted")).key()
    found.append([key, [str(w.message) for w in told if "plugin" in str(w.message)]])
print(json.dumps(found))
"""


def test_a_notebook(here: Path) -> None:
    (here / "helper.py").write_text("W = 1\n")
    plain, edited_ = CELL.format(value="hidden"), CELL.format(value="-hidden")
    scaled, tensor = CELL.format(value="scale(hidden)"), CELL.format(value="hidden + TABLE")
    function = "def scale(x):\n    return SCALE * x\n"
    helped = "import helper\n" + CELL.format(value="helper.W * hidden")
    steps = [
        [plain],
        [edited_],
        [plain],
        ["SCALE = 2", function, scaled],
        ["SCALE = 3"],
        [function.replace("SCALE", "-SCALE")],
        ["SCALE = 2", function],
        [helped],
        ["from pathlib import Path; Path('helper.py').write_text('W = 2')"],
        ["import torch; TABLE = torch.ones(3)", tensor],
        ["exec(compile(PLAIN, '<nowhere>', 'exec'))"],
    ]
    steps[-1].insert(0, f"PLAIN = {plain!r}")
    command = [sys.executable, "-c", NOTEBOOK, json.dumps(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    keys, told = [json.dumps(key) for key, _ in found], [warnings for _, warnings in found]
    assert keys[0] == keys[2] != keys[1]
    assert len({keys[3], keys[4], keys[5]}) == 3
    assert keys[6] == keys[3]
    assert keys[8] != keys[7]
    assert not any(told[:9])
    assert (
        "it uses 'TABLE', a Tensor, whose value can't be followed, so its results are done again in every" in told[9][0]
    )
    assert "its source can't be had" in told[10][0] and "put the class into a file of its own" in told[10][0]
    (here / "helper.py").write_text("W = 1\n")
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    second = [json.dumps(key) for key, _ in json.loads(again.stdout.splitlines()[-1])]
    assert second[:9] == keys[:9]  # another process takes them for the same
    assert second[9] != keys[9] and second[10] != keys[10]


SCRIPT = """
import json
import steerkit
from steerkit.artifacts import PluginSpec
from steerkit.identity import spec_identity
import helper

@steerkit.register("steerers", "scripted")
class Scripted(steerkit.Steerer):
    def edit(self, hidden, at):
        return helper.W * hidden

print(json.dumps(spec_identity("steerers", PluginSpec(name="scripted")).key()))
"""


def test_a_script(here: Path) -> None:
    (here / "mine.py").write_text(SCRIPT)
    (here / "helper.py").write_text("W = 1\n")

    def key() -> str:
        return subprocess.run([sys.executable, "mine.py"], capture_output=True, text=True, check=True).stdout

    first = key()
    assert json.loads(first)[1].keys() == {"", "helper.py"}
    (here / "helper.py").write_text("W = 2\n")
    assert key() != first
