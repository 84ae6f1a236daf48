"""Plugins by kind and name: entry points of real (tiny) distributions, local files, and what goes wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from steerkit import registry
from steerkit.errors import SteerkitError

BUILT_IN = {
    "steps": {"prompts", "chats", "traces", "spans", "statistics", "vectors", "generations", "scores", "findings"},
    "experiments": {"choose", "transfer", "baselines", "offsets", "layers", "lens", "projection", "agreement", "texts"},
    "executors": {"local"},
    "extractors": {"offset-window"},
    "fitters": {"dom", "lda"},
    "steerers": {"residual-add", "overall-mean", "gaussian-noise", "self-amplify"},
    "judges": {"keyword", "rules", "rules-score", "llm", "llm-score"},
    "engines": {"hf", "vllm"},
    "models": {"pocket"},
    "prompts": {"jsonl", "dataset", "pocket"},
}
GOOD = "from steerkit.interfaces import Steerer\nclass Nudge(Steerer):\n    def edit(self, hidden, at): return hidden\n"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Local plugins of one test are not there in the next."""
    monkeypatch.setattr(registry, "_local", {})


def distribution(folder: Path, name: str, points: dict[str, str], code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with entry points, as pip would have left it on the path."""
    info = folder / f"{name}-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[steerkit.steerers]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()))
    (folder / f"{name.replace('-', '_')}.py").write_text(code)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, name.replace("-", "_"), raising=False)


@pytest.mark.parametrize("kind", registry.KINDS)
def test_the_built_ins_come_through_their_entry_points(kind: str) -> None:
    assert BUILT_IN[kind] <= set(registry.entries(kind))
    for name in BUILT_IN[kind]:
        cls = registry.get(kind, name)
        assert cls.name == name
        assert registry.versions(kind, name).startswith("steerkit-hf ")


def test_a_strangers_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution(tmp_path, "stranger-kit", {"nudge": "stranger_kit:Nudge"}, GOOD, monkeypatch)
    assert registry.get("steerers", "nudge").__name__ == "Nudge"
    assert registry.versions("steerers", "nudge") == "stranger-kit 1.2"


def test_listing_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution(tmp_path, "bomb-kit", {"bomb": "bomb_kit:Bomb"}, "raise RuntimeError('boom')", monkeypatch)
    assert "bomb" in registry.entries("steerers")
    assert "bomb_kit" not in sys.modules


def test_an_unknown_name_and_the_nearest() -> None:
    with pytest.raises(SteerkitError, match=r"no steerer is called 'residual-ad'; did you mean 'residual-add'?"):
        registry.get("steerers", "residual-ad")
    with pytest.raises(SteerkitError, match="no fitter is called 'zzzz'; choose from dom, lda"):
        registry.get("fitters", "zzzz")


def test_a_plugin_that_fails_to_load_is_shown_where_a_name_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = {"bomb": "bomb_kit:Bomb", "lost": "steerkit_no_such_module:X"}
    distribution(tmp_path, "bomb-kit", points, "raise RuntimeError('needs a GPU')", monkeypatch)
    with pytest.raises(SteerkitError) as caught:
        registry.get("steerers", "nonesuch")
    text = str(caught.value)
    assert "Plugins of this kind that failed to load:" in text
    origin = "(bomb_kit:Bomb of bomb-kit 1.2)"
    assert f"steerer 'bomb' {origin} does not load: RuntimeError: needs a GPU" in text
    assert "steerer 'lost'" in text
    assert "No module named 'steerkit_no_such_module'" in text
    with pytest.raises(SteerkitError, match=r"steerer 'bomb' .* does not load: RuntimeError: needs a GPU"):
        registry.get("steerers", "bomb")


def test_a_plugin_that_fails_to_load_breaks_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution(tmp_path, "bomb-kit", {"bomb": "bomb_kit:Bomb"}, "raise SystemError('boom')", monkeypatch)
    assert registry.get("steerers", "residual-add").name == "residual-add"
    assert len(registry.failures("steerers")) == 1
    assert registry.failures("judges") == []


def test_duplicate_names_are_refused_and_both_modules_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution(tmp_path, "copy-kit", {"residual-add": "copy_kit:Nudge"}, GOOD, monkeypatch)
    with pytest.raises(SteerkitError) as caught:
        registry.get("steerers", "residual-add")
    text = str(caught.value)
    assert "two steerers are called 'residual-add': " in text
    assert "copy_kit:Nudge" in text
    assert "steerkit_plugins.steerers.residual_add:ResidualAdd" in text
    assert registry.get("steerers", "self-amplify").name == "self-amplify"


def local(tmp_path: Path, name: str, code: str) -> Path:
    path = tmp_path / f"{name}.py"
    path.write_text(code)
    return path


REGISTERED = "import steerkit\nfrom steerkit import register\n@register('steerers', '{name}')\n" + GOOD.split("\n", 1)[
    1
].replace("Steerer", "steerkit.Steerer")


def test_a_local_file_registers_and_may_be_loaded_again(tmp_path: Path) -> None:
    path = local(tmp_path, "mine", REGISTERED.format(name="mine"))
    registry.load_file(path)
    registry.load_file(path)
    cls = registry.get("steerers", "mine")
    assert (cls.name, cls.__name__) == ("mine", "Nudge")
    assert registry.versions("steerers", "mine") == "(local)"


def test_local_duplicates_are_refused(tmp_path: Path) -> None:
    registry.load_file(local(tmp_path, "one", REGISTERED.format(name="same")))
    with pytest.raises(SteerkitError, match=r"two steerers are called 'same': .*one\.py and .*two\.py; rename one"):
        registry.load_file(local(tmp_path, "two", REGISTERED.format(name="same")))
    with pytest.raises(SteerkitError, match=r"'residual-add': steerkit_plugins\.steerers\.residual_add.* and .*three"):
        registry.load_file(local(tmp_path, "three", REGISTERED.format(name="residual-add")))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("x = 1\n\nraise ValueError('no data')\n", r"odd\.py:3: the plugin file failed: ValueError: no data"),
        ("def f(:\n", r"odd\.py:1: the plugin file failed: SyntaxError"),
        ("import no_such_thing_here\n", r"odd\.py:1: the plugin file failed: ModuleNotFoundError"),
        ("x = 1\n", r"odd\.py: registers no plugin; decorate a class with @steerkit\.register"),
        ("from steerkit import register\n@register('steerer', 'x')\nclass X: pass\n", "no such kind .*'steerers'"),
    ],
)
def test_a_local_file_that_is_wrong(tmp_path: Path, code: str, message: str) -> None:
    with pytest.raises(SteerkitError, match=message):
        registry.load_file(local(tmp_path, "odd", code))


def test_a_local_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SteerkitError, match=r"gone\.py: no such plugin file; paths are relative to the recipe"):
        registry.load_file(tmp_path / "gone.py")


def test_a_local_file_can_be_mended_and_loaded_again(tmp_path: Path) -> None:
    """As in a notebook: it failed after it had registered a plugin."""
    path = local(tmp_path, "mended", REGISTERED.format(name="mended") + "\nraise ValueError('half done')\n")
    with pytest.raises(SteerkitError, match="half done"):
        registry.load_file(path)
    local(tmp_path, "mended", REGISTERED.format(name="mended"))
    registry.load_file(path)
    assert registry.get("steerers", "mended").name == "mended"
