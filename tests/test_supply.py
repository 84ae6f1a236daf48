"""What is shipped and what it pulls in: no network, the same wheel twice, versions in bounds."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

OFFLINE = """
import importlib, pkgutil, socket, sys

def refused(*words, **more):
    raise AssertionError(f"the network was asked for: {words}")

for name in ("connect", "connect_ex", "sendto", "bind"):
    setattr(socket.socket, name, refused)
for name in ("getaddrinfo", "gethostbyname", "create_connection"):
    setattr(socket, name, refused)
"""


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


@pytest.mark.parametrize("line", PROJECT["dependencies"])
def test_every_dependency_is_inside_its_bounds_here(line: str) -> None:
    from importlib.metadata import version

    wanted = Requirement(line)
    assert wanted.specifier.contains(version(wanted.name), prereleases=True), f"{wanted} is not {version(wanted.name)}"
