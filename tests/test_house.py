"""The house: rooms import one way, and the core knows nothing of any paper."""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

from steerkit import registry

ROOT = Path(__file__).parent.parent
CORE = ROOT / "steerkit"
PAPER = ("base", "reasoning", "backtracking", "deduction", "wait", "hmm")
"""Roles, labels and keywords of the paper: none is a value in the core."""
OWN_WORDS = ("choose", "layers", "lens", "agreement", "texts", "projection", "strength", "sweep", "features", "graph")
"""Names of experiments that are words of the core, too: a split, a list of blocks, an extra of a vector, a setting,
what a page shows."""
ALLOWED = {
    ("cli", "backtracking"): "the recipe that `steerkit bench` measures where none is named",
    ("cli", "reasoning"): "the taxonomy that `steerkit annotate` shows where none is named",
    ("judging", "reasoning"): "the same",
    ("data", "reasoning"): "the tag <reasoning>, which some models put around their drafts",
}


def test_rooms_import_one_way_and_there_is_no_circle(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("steerkit")
    before = log.disabled
    status = lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_logo=True)
    log.disabled = before  # import-linter's own logging turns off every logger that is there
    assert status == EXIT_STATUS_SUCCESS, capsys.readouterr().out


def values(path: Path) -> Iterator[tuple[int, str]]:
    """String constants of a file, docstrings and f-strings' texts aside."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    told = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in told:
            yield node.lineno, node.value


def test_the_core_names_no_experiment_label_keyword_or_role_of_a_paper() -> None:
    forbidden = {*registry.entries("experiments"), *PAPER} - {*OWN_WORDS}
    found = []
    for path in sorted(CORE.rglob("*.py")):
        room = path.relative_to(CORE).parts[0]
        for line, value in values(path):
            if value in forbidden and (room, value) not in ALLOWED:
                found.append(f"{path.relative_to(ROOT)}:{line}: {value!r}")
    assert not found, "\n".join(found)


def test_the_root_is_small() -> None:
    files = list(CORE.glob("*.py"))
    assert len(files) <= 15
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files) <= 3000


@pytest.mark.parametrize(
    ("file", "most"),
    [("plugins/steerkit_plugins/backtracking/layers.py", 150), ("examples/early_late.py", 40)],
)
def test_an_experiment_fits_in_one_file(file: str, most: int) -> None:
    assert len((ROOT / file).read_text(encoding="utf-8").splitlines()) <= most


def test_no_formatter_is_told_to_skip_a_line() -> None:
    skip = re.compile(r"#\s*fmt:\s*(skip|off)")
    folders = ("steerkit", "plugins", "tests", "benchmarks", "examples")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py") if path != Path(__file__)]
    assert [str(path) for path in files if skip.search(path.read_text(encoding="utf-8"))] == []
