"""What is shipped and what it pulls in: no network at import, the same wheel twice, types for a stranger."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent
BOUNDS = ROOT / "tests/trials/results_bounds.json"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

OPTIONAL = ("vllm", "gguf", "reasoning_gym")
"""Modules that only an extra brings."""

OFFLINE = """
import importlib, pkgutil, socket, sys

def refused(*words, **more):
    raise AssertionError(f"the network was asked for: {words}")

for name in ("connect", "connect_ex", "sendto", "bind"):
    setattr(socket.socket, name, refused)
for name in ("getaddrinfo", "gethostbyname", "create_connection"):
    setattr(socket, name, refused)
"""

EVERY_MODULE = """
import steerkit, steerkit_plugins
seen = 0
for package in (steerkit, steerkit_plugins):
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not found.name.endswith("__main__"):
            try:
                importlib.import_module(found.name)
            except ModuleNotFoundError as error:
                assert error.name.split(".")[0] in OPTIONAL, error
            seen += 1
print(seen)
"""


def test_no_module_asks_for_the_network_when_imported() -> None:
    optional = f"OPTIONAL = {OPTIONAL!r}\n"
    done = subprocess.run([sys.executable, "-c", OFFLINE + optional + EVERY_MODULE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


def test_help_asks_for_no_network() -> None:
    ask = "from steerkit.cli import main\nsys.argv = ['steerkit', '--help']\nmain()"
    done = subprocess.run([sys.executable, "-c", OFFLINE + ask], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "recipe" in done.stdout


def test_the_refusal_of_sockets_works() -> None:
    ask = "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:9')"
    done = subprocess.run([sys.executable, "-c", OFFLINE + ask], capture_output=True, text=True)
    assert "the network was asked for" in done.stderr


def test_the_wheel_is_the_same_from_two_folders(tmp_path: Path) -> None:
    sums = []
    for name, umask in (("one", 0o022), ("another", 0o077)):
        source = tmp_path / name / "source"
        ignored = shutil.ignore_patterns(".git", ".venv*", "runs", "*_cache", "__pycache__", "dist", "tests", "docs")
        shutil.copytree(ROOT, source, ignore=ignored)
        for path in source.rglob("*.py"):
            os.utime(path, (1_700_000_000 + umask, 1_700_000_000))
        words = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(tmp_path / name), str(source)]
        env = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
        done = subprocess.run(words, env=env, umask=umask, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        (wheel,) = (tmp_path / name).glob("*.whl")
        sums.append(hashlib.sha256(wheel.read_bytes()).hexdigest())
    assert sums[0] == sums[1]
    names = zipfile.ZipFile(wheel).namelist()
    assert {"steerkit/py.typed", "steerkit_plugins/py.typed"} <= set(names)


def test_a_strangers_mypy_sees_the_types(tmp_path: Path) -> None:
    """And finds nothing wrong with the Python on the pages."""
    site = tmp_path / "site"
    for package, source in (("steerkit", ROOT / "steerkit"), ("steerkit_plugins", ROOT / "plugins/steerkit_plugins")):
        shutil.copytree(source, site / package, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    (tmp_path / "theirs.py").write_text(
        "from steerkit.stats.intervals import mean_interval\n"
        "from steerkit_plugins.judges.keyword import KeywordJudge\n"
        "from steerkit import Steerer, generate, load_arguments\n"
        "reveal_type(load_arguments)\n"
        "reveal_type(mean_interval)\n"
        "reveal_type(KeywordJudge)\n"
        "mean_interval(3, confidence='high')\n"
    )
    shown = []
    for page in ("README.md", "docs/engines.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        shown += [tmp_path / f"{Path(page).stem.lower()}.py", tmp_path / f"{Path(page).stem.lower()}_files.py"]
        for path, files in zip(shown[-2:], (False, True), strict=True):  # a block that begins with a name is a file
            path.write_text("\n".join(block for block in blocks if block.startswith("# ") == files), encoding="utf-8")
    config = tmp_path / "mypy.ini"
    skipped = "torch.*,transformers.*,pydantic.*,yaml.*,jsonlines.*,ray.*"
    config.write_text(
        "[mypy]\nfollow_imports = silent\nimplicit_reexport = false\ncheck_untyped_defs = true\n"
        f"[mypy-{skipped}]\nfollow_imports = skip\nignore_missing_imports = true\n"
    )
    env = {**os.environ, "PYTHONPATH": str(site), "MYPYPATH": ""}
    words = [sys.executable, "-m", "mypy", "--config-file", str(config), "--cache-dir", str(tmp_path / "cache")]
    names = ["theirs.py", *(path.name for path in shown)]
    done = subprocess.run([*words, *names], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert "-> steerkit.stats.intervals.Estimate" in done.stdout, done.stdout + done.stderr
    assert "-> steerkit_plugins.judges.keyword.KeywordJudge" in done.stdout
    assert 'has incompatible type "str"; expected "float"' in done.stdout
    assert "-> steerkit.settings.SteeringArguments" in done.stdout
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert len(errors) == 2 and all(line.startswith("theirs.py:7:") for line in errors), done.stdout


def test_lower_bounds_are_versions_that_were_tried() -> None:
    (row,) = (row for row in json.loads(BOUNDS.read_text(encoding="utf-8")) if row["what"] == "oldest")
    assert row["lost"] == 0
    for wanted in map(Requirement, PROJECT["dependencies"]):
        (lowest,) = (each.version for each in wanted.specifier if each.operator == ">=")
        assert Version(row["tried"][wanted.name.lower().replace("_", "-")]) == Version(lowest), f"make bounds: {wanted}"


@pytest.mark.parametrize("line", PROJECT["dependencies"])
def test_every_dependency_is_inside_its_bounds_here(line: str) -> None:
    wanted = Requirement(line)
    assert wanted.specifier.contains(version(wanted.name), prereleases=True), f"{wanted} is not {version(wanted.name)}"
