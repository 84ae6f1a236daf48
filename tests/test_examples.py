"""The examples run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from pocket import SIZES, SMALL

from steerkit import SteeringVector, load_recipe
from steerkit.errors import SteerkitError
from steerkit.run import SteeringTrainer
from steerkit.store.csv_tables import read_csv

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_the_script(run: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "quickstart.py"), str(run)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "positions steered" in done.stdout
    assert (tmp_path / "my-vector/README.md").is_file()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_notebook(run: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/backtracking").symlink_to(run)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    assert all(cell.get("outputs") is not None for cell in notebook.cells if cell.cell_type == "code")


def test_the_example_plugin_as_a_local_file(tmp_path: Path) -> None:
    """Medians need single spans' windows: they stream to disk, and the vector is fitted to them."""
    (tmp_path / "hello.py").write_bytes((EXAMPLES / "steerkit-plugin-hello/steerkit_plugin_hello.py").read_bytes())
    path = tmp_path / "mine.yaml"
    path.write_text(
        "extends: backtracking\nname: mine\nplugins: [./hello.py]\n"
        "fitter: {name: median, label: backtracking, window: [-13, -8], least: 1}\n"
    )
    settings = [s for s in SMALL if not s.startswith("experiments")]
    settings.append("experiments=[transfer, lens, projection, agreement, texts]")
    recipe = load_recipe(str(path), [f"output_dir={tmp_path}/run", *settings])
    folder = SteeringTrainer.from_recipe(recipe).run()
    vector = SteeringVector.load(folder / "vectors/base.backtracking.-13..-8.safetensors")
    assert vector.info.method.startswith("median")
    with pytest.raises(SteerkitError, match="fewer than `least`"):
        changed = load_recipe(str(path), [f"output_dir={tmp_path}/other", *settings, "fitter.least=100000"])
        SteeringTrainer.from_recipe(changed).run()


def test_the_example_experiment(tmp_path: Path) -> None:
    """Steering prompt tokens alone and generated tokens alone, compared, drawn and on the page."""
    (tmp_path / "early_late.py").write_bytes((EXAMPLES / "early_late.py").read_bytes())
    path = tmp_path / "mine.yaml"
    path.write_text("extends: backtracking\nname: mine\nplugins: [./early_late.py]\nexperiments: [early-late]\n")
    settings = [*SIZES, "prompts.extract=32", "max_new_tokens=60", "strengths=[30]", f"output_dir={tmp_path}/run"]
    folder = SteeringTrainer.from_recipe(load_recipe(str(path), settings)).run()
    rows = read_csv(folder / "results.csv")
    assert {(row["experiment"], row["tokens"]) for row in rows} == {
        ("early-late", None),
        ("early-late", "prompt"),
        ("early-late", "generated"),
    }
    compared = {(row["tokens"], row["vs_tokens"]) for row in read_csv(folder / "comparisons.csv")}
    assert compared == {("generated", "prompt"), ("prompt", None)}
    assert (folder / "figures/early-late.png").stat().st_size > 1000
    assert "Early or late" in (folder / "report.html").read_text()
