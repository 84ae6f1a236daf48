"""What imports what: the core knows no plugin, and nothing heavy is imported before it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import steerkit

CORE = Path(steerkit.__file__).parent
HEAVY = ("torch", "transformers", "scipy", "matplotlib", "evaluate", "datasets", "openai", "pandas", "peft")


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
        elif isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "import_module":
            found |= {arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)}
    return found


@pytest.mark.parametrize("path", sorted(CORE.rglob("*.py")), ids=lambda p: str(p.relative_to(CORE)))
def test_the_core_imports_no_plugin(path: Path) -> None:
    assert not {name for name in imported(path) if name.split(".")[0] == "steerkit_plugins"}


DEFAULTS = {
    "settings.py": {"residual-add"},
    "vectors/steer.py": {"residual-add"},
    "vectors/contrast.py": {"positions", "dom"},
}
"""How a vector is used where nobody says it; engines (`hf`) and executors (`local`) have such names, too."""
CODE = [path for path in sorted(CORE.rglob("*.py")) if path.parent.name != "cli"]


@cache
def plugin_names() -> frozenset[str]:
    """Names of the built-in plugins of four kinds: looking through every installed package takes long."""
    groups = [f"steerkit.{kind}" for kind in ("extractors", "fitters", "steerers", "judges")]
    names = {point.name for group in groups for point in entry_points(group=group)}
    return frozenset(names - {"keyword"})  # a metric, too


@pytest.mark.parametrize("path", CODE, ids=lambda p: str(p.relative_to(CORE)))
def test_the_core_names_no_plugin(path: Path) -> None:
    """No name of a built-in plugin stands in the core's code (docstrings and defaults aside)."""
    names = plugin_names()
    assert names
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docs = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    strings = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in docs}
    found = names & {s for s in strings if isinstance(s, str)}
    assert not found - DEFAULTS.get(path.relative_to(CORE).as_posix(), set())


@pytest.mark.parametrize("code", ["import steerkit", "import steerkit; dir(steerkit); steerkit.register"])
def test_importing_steerkit_is_light(code: str) -> None:
    assert loaded(code) == []


def test_help_imports_nothing_heavy() -> None:
    code = "import sys\nfrom steerkit.cli import main\nsys.argv = ['steerkit', '--help']\n"
    assert loaded(code + "try: main()\nexcept SystemExit: pass") == []


def loaded(code: str) -> list[str]:
    """Which heavy packages a fresh interpreter has after running the code."""
    after = f"\nimport sys\nprint('LOADED', *[n for n in {HEAVY!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code + after], capture_output=True, text=True, check=True)
    return done.stdout.rsplit("LOADED", 1)[1].split()


def test_every_public_name_is_there() -> None:
    for name in steerkit.__all__:
        assert getattr(steerkit, name) is not None
    with pytest.raises(AttributeError, match="module 'steerkit' has no attribute 'nonesuch'"):
        _ = steerkit.nonesuch
