"""Everything that the README says is run."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from pocket import SIZES, SMALL

import steerkit.recipe.load
from steerkit.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line for kind, text in BLOCKS if not kind for line in text.splitlines() if line.startswith("steerkit ")
] + re.findall(r"`(steerkit recipe (?:cp|run) [^`]+)`", README)


OTHERS = ("fig", "persona", "preventative", "rank1", "transcoder")
"""Recipes with experiments of their own."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readme")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """In an empty folder, and with every recipe at small size."""
    whole = steerkit.recipe.load.load_recipe

    def shrunk(name: str, overrides: Any = (), presets: Any = (), **word: Any) -> Any:
        if "llama" in name:
            return whole(name, overrides, presets, **word)
        few = ["prompts.test=4"] if any(each.startswith("prompts.test=") for each in overrides) else []
        return whole(name, [*(SIZES if name.startswith(OTHERS) else SMALL), *overrides, *few], presets, **word)

    monkeypatch.chdir(folder)
    monkeypatch.setattr(steerkit.recipe.load, "load_recipe", shrunk)
    for kind, text in BLOCKS:
        if kind in ("python", "yaml") and text.startswith("# "):  # named files
            name, body = text.split("\n", 1)
            Path(name.removeprefix("# ")).write_text(body)


def test_it_shows_the_two_commands_first() -> None:
    first = next(text for kind, text in BLOCKS if not kind)
    assert first.split() == ["make", "run", "make", "test"]
    targets = (ROOT / "Makefile").read_text()
    assert "\nrun: " in targets and "\ntest: " in targets


def test_there_are_commands_to_run() -> None:
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(command: str, small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    try:
        main()
    except SystemExit as end:
        assert not end.code, command


def test_python(small: None) -> None:
    """The python blocks that are no files, in order, in one namespace (after the commands: they read runs/quick)."""
    names: dict[str, Any] = {}
    for kind, text in BLOCKS:
        if kind == "python" and not text.startswith("# "):
            exec(compile(text, "README.md", "exec"), names)
    assert (names["folder"] / "report.html").is_file()
    assert Path("my-vector/steering_vector.safetensors").is_file()


def test_the_judge_gives_what_it_declares(small: None) -> None:
    from steerkit import registry
    from steerkit.judging import ask as judging

    registry.load_file(Path("questions.py"))
    judge = registry.get("judges", "questions")()
    assert judging.score(judge, ["Is it? Is it so?", ""]) == [{"questions": 2.0}, {"questions": 0.0}]
    assert steerkit.recipe.load.load_recipe("backtracking", ["score_judge=questions", "choose.metric=questions"])


def test_links_and_pictures_are_there() -> None:
    for target in re.findall(r"\]\(((?!http)[^)]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_files_it_lists_are_made(small: None) -> None:
    for name in re.findall(
        r"`([\w*/]+\.(?:html|csv|jsonl|yaml|safetensors))`", README.split("## What a run leaves")[1]
    ):
        assert list(Path("runs/quick").glob(name)), name
