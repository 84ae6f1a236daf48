"""What the pages, the recipes' headers and the Makefile tell the reader to type: it is there, and it is understood."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main
from test_scripts import ROOT, RUN_ELSEWHERE, RUN_HERE

from steerkit.cli import app
from steerkit.generation.parity import PROMPTS, random_direction
from steerkit.recipe.find import find_recipe
from steerkit.recipe.load import load_recipe
from steerkit.vectors.info import VectorInfo
from steerkit.vectors.steering_vector import SteeringVector

PAGES = [
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "examples/steerkit-plugin-hello/README.md",
    ROOT / "plugins/steerkit_plugins/pocket/MODEL_CARD.md",
]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)[1].split()  # type: ignore[index]
STARTS = r"(?:[A-Z_]+=\S+ )*(?:steerkit|python|make|ray|srun ray|torchrun|accelerate launch|pip install) (?=\S)"


def commands_of(page: Path) -> Iterator[str]:
    """Lines of code, and code within lines, that begin as a command does; without comments."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    if page.suffix == ".yaml":
        text = "\n".join("    " + line[4:] for line in text.splitlines() if line.startswith("#   "))
    blocks = re.findall(r"^```(?:bash)?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += re.findall(rf"^    ({STARTS}.*)$", text, re.MULTILINE)
    lines += [code.replace("\n", " ") for code in re.findall(rf"(?<!`)`({STARTS}[^`]*)`", text)]
    for line in lines:
        if re.match(STARTS, line):
            yield re.split(r"\s+#|\s{2,}", re.sub(r"\[(--[^\]]*)\]", r"\1", line))[0].rstrip(" &;")


COMMANDS = [
    pytest.param(page, command, id=f"{page.name}: {command}")
    for page in (*PAGES, *RECIPES)
    for command in dict.fromkeys(commands_of(page))
]


@cache
def steerkit() -> Any:
    """The command with all of its commands, built once."""
    return typer.main.get_command(app)


def parse(words: list[str]) -> None:
    """Read a command line as `steerkit` does, without running it."""
    command = steerkit()
    while words and hasattr(command, "commands"):
        assert words[0] in command.commands, f"there is no {words[0]!r}"
        command, words = command.commands[words[0]], words[1:]
    known = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    flags = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert flags <= known, f"no such option: {flags - known}"


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_a_command_that_is_shown_is_understood(page: Path, command: str) -> None:
    words = [word for word in shlex.split(command) if not re.fullmatch(r"[A-Z_]+=\S+", word)]
    match words:
        case ["steerkit", *rest]:
            parse(rest)
        case ["srun", "ray", *rest] | ["ray", *rest]:
            check_ray(rest)
        case ["torchrun" | "accelerate", *rest] if "steerkit" in rest:
            parse(rest[rest.index("steerkit") + 1 :])
        case ["python", "-m", module, *rest]:
            parse(rest) if module == "steerkit" else check_script(f"plugins/{module.replace('.', '/')}.py", rest)
        case ["python", path, *rest]:
            check_script(path, rest)
        case ["make", *targets]:
            assert {target for target in targets if "=" not in target} <= {*TARGETS}
        case ["torchrun", *_] | ["pip", *_]:
            pass
        case _:
            raise AssertionError(f"{page.name}: nothing checks {command!r}")


def check_ray(words: list[str]) -> None:
    """A command of Ray's own, and the one of steerkit's that it runs."""
    scripts = pytest.importorskip("ray.scripts.scripts")
    command, own = scripts.cli.commands[words[0]], words[: words.index("--")] if "--" in words else words
    known = {flag for parameter in command.params for flag in parameter.opts}
    assert {word for word in own if word.startswith("--")} <= known
    if "steerkit" in words:
        parse(words[words.index("steerkit") + 1 :])


def check_script(path: str, words: list[str]) -> None:
    """A script that some test runs, which knows these options."""
    assert path in {*RUN_HERE, *RUN_ELSEWHERE}
    text = (ROOT / path).read_text(encoding="utf-8")
    text += (ROOT / "benchmarks/options.py").read_text(encoding="utf-8") if path.startswith("benchmarks") else ""
    for word in words:
        assert not word.startswith("--") or f'"{word}"' in text, f"{path} knows no {word}"


def test_there_are_commands_on_every_kind_of_page() -> None:
    assert len(COMMANDS) > 80
    shown = {page.name for page, _ in (each.values for each in COMMANDS)}
    assert {"README.md", "large-runs.md", "trust.md", "MODEL_CARD.md", "fig3.yaml"} <= shown


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_settings_in_a_recipes_header_are_settings(path: Path) -> None:
    for command in commands_of(path):
        words = shlex.split(command)
        if words[:3] == ["steerkit", "recipe", "run"]:
            pairs = list(pairwise(words))
            given = {flag: [value for name, value in pairs if name == flag] for flag in ("--set", "--preset")}
            load_recipe(words[3], given["--set"], given["--preset"])
            assert find_recipe(words[3]).parent == path.parent


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_of_the_makefile_can_be_made(target: str) -> None:
    done = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for script in re.findall(r"bin/python (\S+\.py)", done.stdout):
        assert script in {*RUN_HERE, *RUN_ELSEWHERE}


def test_every_command_is_called_by_a_test() -> None:
    texts = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    texts += (ROOT / "README.md").read_text(encoding="utf-8")  # a test runs its commands

    def leaves(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        if hasattr(command, "commands"):
            for name, inner in command.commands.items():
                yield from leaves(inner, (*path, name))
        else:
            yield path

    for path in leaves(steerkit(), ()):
        quoted = ", ".join(f'"{word}"' for word in path)
        calls = (quoted, f'{path[0]}("{path[-1]}"', f"steerkit {' '.join(path)} ")
        assert any(call in texts for call in calls), f"no test runs steerkit {' '.join(path)}"


def test_python_on_the_pages_compiles() -> None:
    """What it does is tested by test_readme, and below."""
    for page in PAGES:
        for code in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
            compile(code, page.name, "exec")


def test_the_class_for_ray_data_with_transformers_for_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a Ray actor would do with a batch; test_engine_vllm has it with vLLM, where that is installed."""
    text = (ROOT / "docs/engines.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(code.replace('"vllm"', '"hf"').replace("bf16=True", "bf16=False"), names)
    info = VectorInfo(method="random", label="none", window=None)
    vector = SteeringVector({1: random_direction(128)}, info)
    vector.save(tmp_path / "v.safetensors")
    actor = names["Steered"]("pocket:reasoning", str(tmp_path / "v.safetensors"), max_new_tokens=6)
    found = actor({"prompt": np.array([PROMPTS[0]] * 2), "strength": np.array([0.0, 30.0])})
    assert list(found) == ["prompt", "strength", "text"]
    assert all(found["text"]) and found["text"][0] != found["text"][1]
