"""`steerkit annotate` as it is started: what it opens, what it says, how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from annotate_run import write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


@pytest.fixture
def started(run: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """The command, with a "browser" called `request.param` that writes down what it is asked to open."""
    browser = tmp_path / request.param
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened.new\nmv {tmp_path}/opened.new {tmp_path}/opened\n')
    browser.chmod(0o755)
    command = [sys.executable, "-u", "-m", "steerkit", "annotate", str(run), "--annotator", "ada"]
    env = {**os.environ, "BROWSER": str(browser)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env) as process:
        yield process
        process.kill()


def link_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    said = [process.stdout.readline() for _ in range(2)]
    assert said[0].startswith("0 of 16 labelled; every key is kept in ")
    return said[1].removeprefix("open ").strip()


@pytest.mark.parametrize("started", ["anybrowser"], indirect=True)
def test_it_opens_the_page_and_ends_with_ctrl_c(started: subprocess.Popen[str], tmp_path: Path) -> None:
    link = link_of(started)
    until = time.monotonic() + 20
    while not (tmp_path / "opened").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert (tmp_path / "opened").read_text().strip() == link
    url = urlsplit(link)
    connection = HTTPConnection(str(url.hostname), url.port)
    connection.request("GET", f"/?{url.query}")
    assert connection.getresponse().status == 303
    connection.close()
    started.send_signal(signal.SIGINT)
    out, _ = started.communicate(timeout=20)
    assert started.returncode == 0
    assert "0 of 16 labelled (0 now)\nthe same command goes on where you were\n" in out
    assert "Traceback" not in out


@pytest.mark.parametrize("started", ["w3m"], indirect=True)
def test_a_browser_in_the_terminal_is_not_opened(started: subprocess.Popen[str], tmp_path: Path) -> None:
    link_of(started)
    time.sleep(1)
    assert not (tmp_path / "opened").exists()
