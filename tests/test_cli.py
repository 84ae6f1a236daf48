"""The command line: instant, complete help; plain messages and exit code 2 for user mistakes, never a traceback."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import typer
from console import Steerkit

from steerkit import registry
from steerkit.cli import app
from steerkit.data.trace import Span, read_rows

DRY = ("recipe", "run", "backtracking", "--dry-run", "--set")


def commands(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command below one, with its words."""
    yield words, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*words, name))


def test_every_command_argument_and_option_has_help() -> None:
    found = dict(commands(typer.main.get_command(app)))
    assert ("recipe", "run") in found and ("generate",) in found
    for words, command in found.items():
        assert command.help, words
        for parameter in command.params:
            assert parameter.help, (words, parameter.name)


def test_help_imports_no_torch() -> None:
    code = (
        "import sys; sys.argv = ['steerkit', '--help']\n"
        "from steerkit.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'pydantic', 'evaluate', 'openai'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_listing_recipes_and_plugins_imports_no_torch() -> None:
    for words in ("['recipe', 'ls']", "['recipe', 'validate', 'backtracking']"):
        code = (
            f"import sys; sys.argv = ['steerkit', *{words}]\n"
            "from steerkit.cli import main\n"
            "try: main()\n"
            "except SystemExit: pass\n"
            "assert 'torch' not in sys.modules\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("recipe", "run", "backtraking"), "no such recipe, neither a file here nor a shipped one; did you mean"),
        (("recipe", "validate", "backtracking", "--set", "layer=x"), "--set layer=x: 'layer' must be a whole number"),
        ((*DRY, "layer=99"), "layer: 99 is not a block of"),
        ((*DRY, "models.reasoning=pocket:reasonin"), "mean 'reasoning'?"),
        ((*DRY, "models.reasoning=./gone"), "./gone: no model folder"),
        ((*DRY, "models.reasoning=gone.gguf"), "gone.gguf: no such GGUF file"),
        (("plugin", "ls", "fiters"), "no kind of plugin is called 'fiters'; did you mean 'fitters'?"),
        (("vector", "show", "gone.safetensors"), "gone.safetensors: no such vector file"),
        (("report", "gone"), "gone: no run there (no recipe.yaml); give the folder"),
        (("generate", "pocket:reasoning", "gone.safetensors", "Hello"), "gone.safetensors: no such vector file"),
    ],
)
def test_user_mistakes(steerkit: Steerkit, words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = steerkit(*words)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_hub_name_while_offline(steerkit: Steerkit, tmp_path: Path) -> None:
    done = steerkit(
        *("recipe", "run", "backtracking"),
        *("--set", "models={base: someone/no-such-model, reasoning: someone/no-such-model}"),
    )
    assert done.returncode == 2
    assert "someone/no-such-model: the model can't be loaded" in done.stderr
    assert "give a local folder" in done.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty; each line is a JSON object"),
        ('{"prompt": "a"}\n{"prompt": \n{"text": "b"}\n', ":2: not a JSON line"),
        ('{"prompt": "a"}\n{"text": "b"}\n', ":2: has no 'prompt' (a text, or messages) and no 'messages'"),
        ('{"prompt": "a"}\n', "too few prompts of 1 prompts: "),
    ],
)
def test_prompt_files(steerkit: Steerkit, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text(content)
    source = "prompts.source={name: jsonl, path: mine.jsonl}"
    done = steerkit("recipe", "run", "backtracking", "--set", source)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("prompts.source={name: jsonl, path: no.jsonl}", "prompts.source.path: no.jsonl: no such file; relative paths"),
        ("prompts.source={name: jsonl, path: one.jsonl}", "prompts.source: too few prompts of 1 prompts: extract 1 of"),
        ("prompts.source={name: jsonl, path: bad.jsonl}", "bad.jsonl:2: has no 'prompt'"),
        ("prompts.source={name: dataset, path: json, data_files: no.json}", "prompts.source: data set json: can't be"),
        ("prompts.source={name: dataset, path: json, data_files: one.jsonl}", "prompts.source: too few prompts of 1"),
        ("traces.file=no.jsonl", "traces.file: no.jsonl: no such file"),
        ("spans.file=no.jsonl", "spans.file: no.jsonl: no such file"),
        ("score_judge={name: human, labels: [no.jsonl]}", "no.jsonl: no such file"),
    ],
)
def test_a_plan_looks_into_the_files_of_a_run(steerkit: Steerkit, given: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_text('{"prompt": "a"}\n')
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a"}\n{"text": "b"}\n')
    done = steerkit(*DRY, given, "--gpu", "h100")
    assert done.returncode == 2
    assert message in done.stderr


def test_a_plan_asks_no_server_for_prompts(steerkit: Steerkit) -> None:
    for source in ("{name: dataset, path: someone/nowhere}", "{name: llm, base_url: 'http://127.0.0.1:9', model: m}"):
        done = steerkit(*DRY, f"prompts.source={source}", "--gpu", "h100", "--allow", "servers")
        assert done.returncode == 0, done.stderr


def test_a_missing_prompts_file(steerkit: Steerkit, tmp_path: Path) -> None:
    done = steerkit("recipe", "run", "backtracking", "--set", "prompts.source={name: jsonl, path: no.jsonl}")
    assert done.returncode == 2
    assert "no.jsonl: no such prompts file" in done.stderr


def test_no_backtracking_in_any_trace(steerkit: Steerkit, tmp_path: Path) -> None:
    done = steerkit("recipe", "run", "backtracking", "--set", "prompts.extract=4", "--set", "max_new_tokens=12")
    assert done.returncode == 2
    assert "D₊ is empty: none of 4 traces has a span labelled 'backtracking' by rules (found: " in done.stderr
    assert "prompts.extract" in done.stderr


def test_copy_show_and_validate(steerkit: Steerkit, tmp_path: Path) -> None:
    assert steerkit("recipe", "cp", "backtracking").returncode == 0
    assert steerkit("recipe", "cp", "backtracking").returncode == 2  # is there already
    done = steerkit("recipe", "validate", "backtracking")
    assert done.stdout.strip() == "backtracking.yaml: valid"
    shown = steerkit("recipe", "show", "backtracking").stdout
    (tmp_path / "shown.yaml").write_text(shown)
    assert steerkit("recipe", "validate", "shown.yaml").returncode == 0


def test_dry_run_prints_the_plan(steerkit: Steerkit, tmp_path: Path) -> None:
    done = steerkit("recipe", "run", "backtracking", "--dry-run")
    assert done.returncode == 0, done.stderr
    words = ("conditions", "new tokens", "forward passes", "memory", "transfer", "baselines", "offsets", "layers")
    for word in (*words, "time  ", "on this machine", "measured: a decode step of 128 rows"):
        assert word in done.stdout
    assert not list(tmp_path.iterdir())


def test_the_plan_for_a_gpu(steerkit: Steerkit) -> None:
    done = steerkit("recipe", "run", "backtracking", "--dry-run", "--gpu", "A100-40GB")
    assert "on NVIDIA A100 40GB SXM, an estimate" in done.stdout
    assert "fits   " in done.stdout and "measured: a decode step" not in done.stdout
    wrong = steerkit("recipe", "run", "backtracking", "--dry-run", "--gpu", "h10")
    assert (wrong.returncode, "'h100'" in wrong.stderr) == (2, True)
    assert "--dry-run" in steerkit("recipe", "run", "backtracking", "--gpu", "h100").stderr


def test_plugins_are_listed_with_their_package(steerkit: Steerkit) -> None:
    out = steerkit("plugin", "ls").stdout
    for name in ("offset-window", "dom", "residual-add", "gaussian-noise", "keyword", "rules", "pocket", "jsonl"):
        assert f"  {name} " in out
    assert "steerkit-hf" in out


def test_vectors_and_generation(steerkit: Steerkit, run: Path) -> None:
    vector = run / "vectors/base.backtracking.-13..-8.safetensors"
    shown = steerkit("vector", "show", vector).stdout
    assert "SteeringVector('backtracking' by dom" in shown
    assert "fingerprint" in shown
    compared = steerkit("vector", "compare", vector, run / "vectors/reasoning.backtracking.-13..-8.safetensors").stdout
    assert len([line for line in compared.splitlines() if line.strip()[:1].isdigit()]) >= 4
    words = ("generate", "pocket:reasoning", vector, "How many?", "-s", 20, "--layer", 1, "--max-new-tokens", 8)
    done = steerkit(*words)
    assert done.returncode == 0, done.stderr
    assert "unsteered" in done.stdout
    assert "strength 20" in done.stdout
    assert steerkit(*words, "--tokens", "some").returncode == 2
    assert "name a layer" in steerkit("generate", "pocket:reasoning", vector, "How many?").stderr


def test_sentences_of_a_runs_generations_can_be_labelled(run: Path, tmp_path: Path) -> None:
    from steerkit.annotate.generations import read_generations
    from steerkit.annotate.judged_generations import JUDGED, generation_tasks

    copy = shutil.copytree(run, tmp_path / "run")
    rows = {row.id: row for row in read_generations(copy)}
    assert len(rows) == sum(len(path.read_text().splitlines()) for path in (run / "generations").iterdir())
    assert {row.split for row in rows.values()} == {"choose", "test"}
    for what, name in (("generations", "rules"), ("scored", "keyword")):
        tasks = generation_tasks(copy, what, 1)  # type: ignore[arg-type]
        judged = [s for s in read_rows(copy / JUDGED, Span) if (s.judge, s.label) == (name, "backtracking")]
        assert {task.place for task in tasks} == {(s.trace_id, s.start, s.end) for s in judged}
        assert all(rows[name].text.startswith(task.text.text) for task in tasks for name in [task.place[0]])


def test_report_is_built_again(steerkit: Steerkit, run: Path) -> None:
    done = steerkit("report", run)
    assert done.returncode == 0, done.stderr
    assert "report.html" in done.stdout


def test_a_folder_whose_name_looks_like_markup(steerkit: Steerkit, run: Path, tmp_path: Path) -> None:
    odd = tmp_path / "[red] :warning: [" / "b]"
    odd.parent.mkdir()
    odd.symlink_to(run)
    done = steerkit("report", odd)
    assert done.returncode == 0, done.stderr
    assert f"report {odd / 'report.html'}" in done.stdout


def test_ctrl_c_is_said_to_keep_what_is_done(steerkit: Steerkit, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("steerkit.recipe.find.shipped", interrupted)
    done = steerkit("recipe", "ls")
    assert done.returncode == 130
    assert done.stderr == "stopped; what is done is kept: give the same command again to go on\n"


def test_ctrl_c_that_compiled_code_makes_another_error_of(steerkit: Steerkit, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        with suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        raise TypeError("could not determine the shape of an object")

    monkeypatch.setattr("steerkit.recipe.find.shipped", interrupted)
    done = steerkit("recipe", "ls")
    assert done.returncode == 130
    assert done.stderr == "stopped; what is done is kept: give the same command again to go on\n"


def test_a_command_that_ctrl_c_ends_well_has_ended_well(steerkit: Steerkit, monkeypatch: pytest.MonkeyPatch) -> None:
    def served() -> list[str]:
        with suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        return []

    monkeypatch.setattr("steerkit.recipe.find.shipped", served)
    done = steerkit("recipe", "ls")
    assert (done.returncode, done.stderr) == (0, "")


def test_experiments_are_listed_and_shown(steerkit: Steerkit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_local", {})
    listed = steerkit("experiment", "ls")
    assert listed.returncode == 0
    assert [line for line in listed.stdout.splitlines() if line.startswith("offsets")], listed.stdout
    shown = steerkit("experiment", "show", "offsets")
    assert shown.returncode == 0 and "experiments: [offsets]" in shown.stdout
    file = Path(__file__).parent.parent / "examples/early_late.py"
    own = steerkit("experiment", "show", "early-late", "--plugins", file)
    assert own.returncode == 0 and "Does steering only the prompt do less" in own.stdout
    missing = steerkit("experiment", "show", "late-early")
    assert missing.returncode == 2 and "--plugins FILE" in missing.stderr
