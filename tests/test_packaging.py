"""The wheel holds everything and runs from any folder; the example plugin is really installed."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*words: object, cwd: Path, path: Path | None = None) -> str:
    env = {**os.environ, **({"PYTHONPATH": str(path)} if path else {})}
    done = subprocess.run(list(map(str, words)), cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, ROOT, cwd=folder)
    (found,) = folder.glob("*.whl")
    return found


def test_the_wheel_holds_recipes_templates_and_models(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    recipes = {f"steerkit/_recipes/{p.name}" for p in (ROOT / "recipes").glob("*.yaml")}
    pocket = {f"steerkit_plugins/pocket/{m}/model.safetensors" for m in ("base", "reasoning", "instructable")}
    assert recipes | pocket | {"steerkit_plugins/pocket/MODEL_CARD.md", "steerkit/py.typed"} <= set(names)
    assert any(n.startswith("steerkit/report/templates/") for n in names)
    pages = {f"steerkit/annotate/page/{name}" for name in ("index.html", "page.js", "page.css", "icon.svg")}
    assert pages <= set(names)
    traits = {f"steerkit_plugins/traits/{p.name}" for p in (ROOT / "plugins/steerkit_plugins/traits").glob("*.yaml")}
    assert len(traits) > 2 and traits <= set(names)
    assert not [n for n in names if n.startswith(("tests/", "benchmarks/", "recipes/"))]
    weights = sum(i.file_size for i in zipfile.ZipFile(wheel).infolist() if "/pocket/" in i.filename)
    assert weights <= 15e6


def test_the_wheel_runs_from_any_folder(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, wheel, cwd=tmp_path)
    where = run(sys.executable, "-c", "import steerkit; print(steerkit.__file__)", cwd=tmp_path, path=site)
    assert Path(where.strip()).is_relative_to(site)
    assert "backtracking-llama-8b" in run(sys.executable, "-m", "steerkit", "recipe", "ls", cwd=tmp_path, path=site)
    plan = run(sys.executable, "-m", "steerkit", "recipe", "run", "backtracking", "--dry-run", cwd=tmp_path, path=site)
    assert str(site / "steerkit/_recipes/backtracking.yaml") in plan
    assert "forward passes" in plan


def test_the_example_plugin_installs_and_is_found(tmp_path: Path) -> None:
    site, source = tmp_path / "site", ROOT / "examples/steerkit-plugin-hello"
    copy = tmp_path / "hello"
    copy.mkdir()
    for file in source.iterdir():
        if file.is_file():
            (copy / file.name).write_bytes(file.read_bytes())
    assert len([line for line in (copy / "pyproject.toml").read_text().splitlines() if line.strip()]) == 5
    run(
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        site,
        copy,
        cwd=tmp_path,
    )
    listed = run(sys.executable, "-m", "steerkit", "plugin", "ls", "fitters", cwd=tmp_path, path=site)
    assert "median" in listed and "steerkit-plugin-hello 0.1.0" in listed
    words = ["recipe", "validate", "backtracking", "--set", "fitter.name=median", "--set", "fitter.least=3"]
    assert "valid" in run(sys.executable, "-m", "steerkit", *words, cwd=tmp_path, path=site)
