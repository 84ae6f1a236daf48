"""The oldest and the newest versions of each dependency that pyproject.toml allows, tried.

`python tests/trials/bounds.py oldest` (or `newest`) makes an environment of them with uv, installs steerkit and runs
a few tests of every part that leans on a dependency. `--torch 2.13.0` takes that torch instead (builds of old ones for
CUDA are gigabytes). A row goes to tests/trials/results_bounds.json, the table to docs/supply.md; `show` only writes the
table again.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results_bounds.json"
PAGE = ROOT / "docs/supply.md"
MARK = "<!-- tests/trials/bounds.py writes what follows -->\n"
SMOKE = (
    "test_imports.py",
    "test_recipe.py",
    "test_vector.py",
    "test_steering.py",
    "test_peft.py",
    "test_sources.py",
    "test_tokens.py",
    "test_quality.py",
    "test_dispatch.py",
    "test_intervals.py",
    "test_judge_llm.py::test_spans_are_exact",
    "test_report.py::test_files_are_whole_and_the_same_again",
    "test_cli.py::test_every_command_argument_and_option_has_help",
)
QUIET = ("-p", "no:cacheprovider", "-W", "default", "-k", "not trial")
"""Warnings of old libraries about each other are theirs; simulations tell nothing of versions."""

RESOLUTION = {"oldest": "lowest-direct", "newest": "highest"}


UV = (sys.executable, "-m", "uv")


def run(*words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(word) for word in words], cwd=ROOT, capture_output=True, text=True, check=False)
    if check and done.returncode:
        sys.exit(f"{' '.join(map(str, words))}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done


def attempt(which: str, torch: str, python: str, folder: Path) -> dict[str, Any]:
    """Make the environment and run the tests in it."""
    begun, home = time.monotonic(), folder / which
    run(*UV, "venv", "--quiet", "--clear", "--python", python, home)
    override = folder / "override.txt"
    override.write_text(f"torch=={torch}\n" if torch else "", encoding="utf-8")
    run(
        *UV,
        "pip",
        "install",
        "--quiet",
        "--python",
        home / "bin/python",
        "--resolution",
        RESOLUTION[which],
        "--override",
        override,
        ".",
        "pytest>=8.4",
    )
    tests = [f"tests/{name}" for name in SMOKE]
    done = run(home / "bin/python", "-P", "-m", "pytest", "-q", *QUIET, *tests, check=False)
    listed = json.loads(run(*UV, "pip", "list", "--python", home / "bin/python", "--format", "json").stdout)
    versions = {each["name"].lower().replace("_", "-"): each["version"] for each in listed}
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    names = [re.split(r"[<>=!~\[; ]", line, maxsplit=1)[0].lower().replace("_", "-") for line in wanted]
    if not done.stdout:
        sys.exit(done.stderr[-4000:])
    print(done.stdout[-3000:])
    return {
        "what": which,
        "tried": {name: versions[name] for name in names},
        "torch_replaced": bool(torch),
        "python": run(home / "bin/python", "-c", "import platform; print(platform.python_version())").stdout.strip(),
        "tests": done.stdout.strip().splitlines()[-1].strip("= "),
        "lost": done.returncode,
        "seconds": round(time.monotonic() - begun),
    }


def show(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line a dependency, a column an attempt, and what became of its tests."""
    lines = ["| | " + " | ".join(f"{row['what']}, Python {row['python']}" for row in rows) + " |"]
    lines.append("|---" * (len(rows) + 1) + "|")
    for name in rows[0]["tried"]:
        cells = [row["tried"][name] + " (given)" * (name == "torch" and row["torch_replaced"]) for row in rows]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join([*lines, "| tests | " + " | ".join(row["tests"] for row in rows) + " |"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", choices=[*RESOLUTION, "show"])
    parser.add_argument("--torch", default="", help="take this version of torch, whatever the bounds say")
    parser.add_argument("--results", type=Path, default=RESULTS, help="JSON file of the rows")
    parser.add_argument("--page", type=Path, default=PAGE, help="page that the table is put into")
    parser.add_argument("--python", default=f"{sys.version_info.major}.{sys.version_info.minor}")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if args.results.is_file():
        rows = json.loads(args.results.read_text(encoding="utf-8"))
    if args.which != "show":
        with tempfile.TemporaryDirectory() as folder:
            row = attempt(args.which, args.torch, args.python, Path(folder))
        rows = [each for each in rows if each["what"] != args.which] + [row]
        args.results.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    page = args.page.read_text(encoding="utf-8").split(MARK)[0]
    args.page.write_text(page + MARK + show(rows) + "\n", encoding="utf-8")
    print(show(rows))
    return max((row["lost"] for row in rows), default=0)


if __name__ == "__main__":
    raise SystemExit(main())
