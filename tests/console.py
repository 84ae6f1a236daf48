"""The `steerkit` command, called in the tests' own process (importing torch once is enough)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from steerkit.cli import main


@dataclass
class Done:
    """How a command ended, and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


Steerkit = Callable[..., Done]


@pytest.fixture
def steerkit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Steerkit:
    """Calls the console entry point from an empty folder, on a wide screen."""

    def call(*words: object) -> Done:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr(sys, "argv", ["steerkit", *map(str, words)])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        out = capsys.readouterr()
        assert "Traceback" not in out.err
        return Done(code, out.out, out.err)

    return call
