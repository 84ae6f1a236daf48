"""Every script that is shipped runs, at its smallest size; a new one that no test runs fails here."""

from __future__ import annotations

import csv
import json
import re
import runpy
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_gguf import write_gguf

from steerkit.bench.measure import read
from steerkit.recipe.load import load_recipe
from steerkit.recipe.show import resolved_yaml

ROOT = Path(__file__).parent.parent
MEASURE = ("--size", "smallest", "--out", "out.json")
ONCE = (*MEASURE, "--rounds", "1", "--threads", "1")

RUN_HERE: dict[str, Sequence[str]] = {
    "benchmarks/ablations.py": ONCE,
    "benchmarks/bridging.py": ONCE,
    "benchmarks/costs.py": ONCE,
    "benchmarks/determinism.py": MEASURE,
    "benchmarks/executors.py": ONCE,
    "benchmarks/features.py": ONCE,
    "benchmarks/gradients.py": ONCE,
    "benchmarks/graphs.py": ("--size", "smallest", "--rounds", "1", "--out", "."),
    "benchmarks/growth.py": ("--size", "smallest", "--rounds", "1", "--out", "."),
    "benchmarks/page.py": ("--page", "benchmarks.md"),
    "benchmarks/peers.py": ONCE,
    "benchmarks/run.py": (*ONCE, "--only", "determinism"),
    "benchmarks/sae.py": ONCE,
    "benchmarks/scalars.py": ONCE,
    "benchmarks/smollm2.py": (
        "tiny.gguf",
        "traces.jsonl",
        "--layer",
        "1",
        "--resamples",
        "100",
        "--new-tokens",
        "4",
        "--out",
        "out",
    ),
    "benchmarks/training.py": ONCE,
    "plugins/steerkit_plugins/pocket/train.py": (
        "--steps",
        "2",
        "--tuning-steps",
        "2",
        "--width",
        "32",
        "--blocks",
        "1",
        "--tried",
        "2",
        "--out",
        "pair",
    ),
    "plugins/steerkit_plugins/pocket/train_instructable.py": ("--steps", "1", "--tried", "1", "--out", "told"),
    "tests/trials/circuit_graphs.py": ("--out", "out.json"),
    "tests/trials/contrast.py": ("--out", "out.json"),
    "tests/trials/bounds.py": ("show", "--page", "supply.md"),
    "tests/trials/fuzz.py": ("--seconds", "2", "--target", "gguf", "--out", "out.json"),
    "tests/trials/pairing.py": ("--run", "run", "--resamples", "50", "--out", "out.json"),
    "tests/trials/pooled.py": ("--runs", "1", "--out", "out.json"),
    "tests/trials/table.py": ("--page", "trust.md"),
    "tests/trials/two_level.py": ("--runs", "2", "--prompts", "8", "--draws", "2", "3", "--out", "out.json"),
}
"""Scripts → their smallest run."""

RUN_ELSEWHERE = {
    "benchmarks/memory.py": "test_scripts.py",
    "examples/early_late.py": "test_examples.py",
    "examples/quickstart.ipynb": "test_examples.py",
    "examples/quickstart.py": "test_examples.py",
    "steerkit/__main__.py": "pocket.py",
    "tests/trials/coverage.py": "test_intervals.py",
    "tests/trials/crashes.py": "test_trials.py",
    "tests/trials/load.py": "test_trials.py",
}
"""Scripts → the file among the tests that runs them."""

Script = Callable[..., str]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Script]:
    """Runs a script in this process (importing torch once is enough), in an empty folder; what it printed."""
    known, threads = set(sys.modules), torch.get_num_threads()

    def run(path: str, *words: str, code: object = (None, 0)) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(str((ROOT / path).parent))
        monkeypatch.setattr(sys, "argv", [path, *words])
        try:
            runpy.run_path(str(ROOT / path), run_name="__main__")
            end = None
        except SystemExit as ended:
            end = ended.code
        assert end in code if isinstance(code, tuple) else end == code, end
        return capsys.readouterr().out

    yield run
    torch.set_num_threads(threads)
    for name in set(sys.modules) - known:  # `models` and `memory` are names of their folder alone
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).parent in (ROOT / "benchmarks", ROOT / "tests/trials"):
            del sys.modules[name]


def test_every_script_is_run_by_a_test() -> None:
    folders = ("benchmarks", "examples", "plugins", "steerkit", "tests/trials")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    scripts = {path for path in files if _is_script(path)}
    scripts |= {path for folder in folders for path in (ROOT / folder).rglob("*.ipynb")}
    assert {str(path.relative_to(ROOT)) for path in scripts} == {*RUN_HERE, *RUN_ELSEWHERE}
    for path, by in RUN_ELSEWHERE.items():
        text = (ROOT / "tests" / by).read_text(encoding="utf-8")
        assert Path(path).name in text.replace('"-m", "steerkit"', "__main__.py"), f"{by} does not run {path}"


def _is_script(path: Path) -> bool:
    guarded = re.search(r'^if __name__ == "__main__":', path.read_text(encoding="utf-8"), re.MULTILINE)
    return path.name == "__main__.py" or path.parent == ROOT / "examples" or bool(guarded)


def test_mypy_reads_every_script() -> None:
    read_by_mypy = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]["files"]
    for path in (*RUN_HERE, *RUN_ELSEWHERE):
        assert path.endswith(".ipynb") or any(path.startswith(f"{folder}/") for folder in read_by_mypy), path


def test_every_script_of_the_makefile_is_known() -> None:
    named = re.findall(r"\$\(BIN\)/python (\S+\.py)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert len(named) > 5 and set(named) <= {*RUN_HERE, *RUN_ELSEWHERE}


@pytest.mark.parametrize(
    "name", ["bridging", "costs", "determinism", "executors", "gradients", "peers", "run", "training"]
)
def test_a_benchmark_measures_something(name: str, script: Script, tmp_path: Path) -> None:
    printed = script(f"benchmarks/{name}.py", *RUN_HERE[f"benchmarks/{name}.py"])
    found = read(tmp_path / "out.json")
    assert (
        len(found)
        == {"costs": 9, "determinism": 2, "executors": 2, "gradients": 3, "run": 2, "training": 3}.get(name, len(found))
        >= (1 if name == "bridging" else 2)
    )
    assert all(result.name in printed for result in found)
    assert all(result.ratio > 0 for result in found if "rows differ" not in result.name and "row" not in result.name)
    if name == "peers" and find_spec("nnsight") is None:
        said = "not compared with {}, which is not installed (benchmarks/requirements.txt)"
        assert [printed.count(said.format(peer)) for peer in ("nnsight", "steering-vectors", "repeng")] == [1, 1, 1]
        assert [result.name.partition(": ")[2].partition(",")[0].partition(" / ")[0] for result in found] == [
            "extraction",
            "steered sweep",
            "steered sweep of rows of unequal length",
            "steered decode step",
        ]


def test_peak_memory_of_fresh_processes(tmp_path: Path) -> None:
    """The parent holds a lot: a child that told its parent's peak would have added nothing."""
    words = [sys.executable, str(ROOT / "benchmarks/memory.py"), *MEASURE]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = {result.name: result for result in read(tmp_path / "out.json")}
    assert "peak memory, sweep: steerkit / model.generate" in found
    for result in found.values():
        held = [float(number.replace(",", "")) for number in result.note.split(" MiB")[0].split(" and ")]
        assert result.ratio > 0 and min(held) >= 1, result


def test_growth_is_drawn(script: Script, tmp_path: Path) -> None:
    printed = script("benchmarks/growth.py", *RUN_HERE["benchmarks/growth.py"])
    found = json.loads((tmp_path / "growth.json").read_text())
    assert len(found) == 7 == printed.count(" slope ")
    assert all(own["relative"][0] == 1 and own["relative"][1] > 0 for own in found.values())
    assert (tmp_path / "growth.png").stat().st_size > 1000


def test_time_of_graphs_is_drawn(script: Script, tmp_path: Path) -> None:
    printed = script("benchmarks/graphs.py", *RUN_HERE["benchmarks/graphs.py"])
    found = json.loads((tmp_path / "graphs.json").read_text())
    assert len(found["graph"]) == 2 == printed.count("times the floor") and found["active"] > 32
    assert (tmp_path / "graphs.png").stat().st_size > 1000


def test_graphs_beside_circuit_tracer(script: Script, tmp_path: Path) -> None:
    printed = script("tests/trials/circuit_graphs.py", *RUN_HERE["tests/trials/circuit_graphs.py"])
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["features"] > 100 and found["edges"] > 1000
    if find_spec("circuit_tracer") is None:
        assert "not compared with circuit-tracer, which is not installed" in printed
    else:
        assert found["read"] == ["a"] and all(row["nodes"][1] == 0 == row["edges"][1] for row in found["pruning"])


def made_up(number: int) -> dict[str, Any]:
    """A trace with its labels as tagged text."""
    sections = {
        "deduction": f"So the sum of {number} and 2 is {number + 2}, and that is what we want to know.",
        "backtracking": f"Wait, is that right? Let me check {number} once more.",
        "example-testing": f"For example {number} plus {number} is {2 * number}.",
    }
    tagged = " ".join(f'["{label}"] {text} ["end-section"]' for label, text in sections.items())
    trace = " ".join(sections.values())
    return {"id": f"t{number}", "prompt": f"What is {number} plus 2?", "trace": trace, "annotated": tagged}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the gguf package's own
def test_the_benchmark_on_real_traces_with_a_tiny_model_and_made_up_ones(script: Script, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="reading GGUF needs gguf (pip install 'steerkit-hf[gguf]')")
    write_gguf(tmp_path / "tiny.gguf")
    rows = [json.dumps(made_up(number)) for number in range(12)]
    (tmp_path / "traces.jsonl").write_text("\n".join(rows))
    printed = script("benchmarks/smollm2.py", *RUN_HERE["benchmarks/smollm2.py"])
    assert "12 traces" in printed and "12 windows before backtracking spans, 24 before other spans" in printed
    with (tmp_path / "out/directions.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [(row["source"], row["layer"]) for row in found] == [(name, n) for name in ("dom", "lda") for n in "012"]
    assert all(0 <= float(row[name]) <= 1 for row in found for name in ("auroc", "auroc_in_trace", "top_share"))
    assert {(row["n_windows"], row["n_traces"]) for row in found} == {("36", "12")}
    assert "| dom (backtracking) | 0 |" in printed and "| lda backtracking | lda deduction | 2 |" in printed
    assert (tmp_path / "out/directions.md").read_text().strip() in printed
    assert all((tmp_path / f"out/{name}.png").stat().st_size > 1000 for name in ("dom", "lda"))
    assert (tmp_path / "out/vector.safetensors").is_file() and "--- 0.4 × " in printed
    kept = (tmp_path / "out/costs.json").read_text()
    script("benchmarks/smollm2.py", *RUN_HERE["benchmarks/smollm2.py"])
    assert (tmp_path / "out/costs.json").read_text() == kept


def test_pages_are_made_of_the_results_beside_them(script: Script, tmp_path: Path) -> None:
    """What is in the repository is what the script puts there."""
    for path, page in (
        ("benchmarks/page.py", "benchmarks.md"),
        ("tests/trials/table.py", "trust.md"),
        ("tests/trials/bounds.py", "supply.md"),
    ):
        shipped = (ROOT / "docs" / page).read_text(encoding="utf-8")
        (tmp_path / page).write_text(shipped, encoding="utf-8")
        script(path, *RUN_HERE[path])
        assert (tmp_path / page).read_text(encoding="utf-8") == shipped, path


def test_the_embedded_pair_is_trained(script: Script, tmp_path: Path) -> None:
    path = "plugins/steerkit_plugins/pocket/train.py"
    script(path, *RUN_HERE[path])
    for role in ("base", "reasoning"):
        assert {"config.json", "model.safetensors"} <= {file.name for file in (tmp_path / "pair" / role).iterdir()}


def test_the_model_that_follows_lines_is_trained(script: Script, tmp_path: Path) -> None:
    path = "plugins/steerkit_plugins/pocket/train_instructable.py"
    script(path, *RUN_HERE[path])
    assert {"config.json", "model.safetensors"} <= {file.name for file in (tmp_path / "told").iterdir()}
    follows = json.loads((tmp_path / "told/training.json").read_text())["follows"]
    assert len(follows) == 8 and all(0 <= row["coherence"] <= 100 for row in follows.values())


def test_pooled_intervals(script: Script, tmp_path: Path) -> None:
    printed = script("tests/trials/pooled.py", *RUN_HERE["tests/trials/pooled.py"])
    rows = json.loads((tmp_path / "out.json").read_text())
    assert len(rows) == 9 and all(row["tried"] == 1 for row in rows)
    assert printed.count("±") == 9


def test_intervals_over_prompts_and_draws(script: Script, tmp_path: Path) -> None:
    printed = script("tests/trials/two_level.py", *RUN_HERE["tests/trials/two_level.py"])
    rows = json.loads((tmp_path / "out.json").read_text())
    assert len({(row["what"], row["contrast"]) for row in rows}) == 22
    assert len(rows) == 22 * 2 * 7 and all(row["tried"] == 2 for row in rows)
    assert len(printed.splitlines()) == 2 + 22 + 1 + 2 + 7 and printed.count("8 × 3") == 2


def test_what_pairing_is_worth(script: Script, tmp_path: Path) -> None:
    recipe = load_recipe("backtracking", ["samples=2"])
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "recipe.yaml").write_text(resolved_yaml(recipe), encoding="utf-8")
    rows = [
        generation(prompt, sample, strength) for prompt in range(30) for sample in range(2) for strength in (0.0, 30.0)
    ]
    (folder / "generations").mkdir()
    (folder / "generations/test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    printed = script("tests/trials/pairing.py", *RUN_HERE["tests/trials/pairing.py"])
    found = json.loads((tmp_path / "out.json").read_text())
    assert [(row["what"], row["prompts"], row["samples"]) for row in found] == [
        (f"{metric}, strength 30 minus unsteered", 30, 2) for metric in ("b", "judged sentences")
    ]
    assert printed.count("|\n") == 4


def generation(prompt: int, sample: int, strength: float) -> Mapping[str, Any]:
    """A row as a run writes it; texts have more of "wait" by prompt, sample and strength."""
    waits = " ".join(
        ["Wait, Monday+2 gives 4, so Max has just 4 cups."] * (1 + (prompt * (1 + sample) + int(strength)) % 4)
    )
    return {
        "split": "test",
        "target": "reasoning",
        "method": "dom" if strength else "none",
        "layer": 1,
        "pool": "own",
        "source": "base" if strength else "",
        "strength": strength,
        "prompt_id": f"p{prompt}",
        "sample": sample,
        "text": f"Max has 2 cups. {waits}</think> 4",
    }


def test_fuzzing_runs_or_says_what_it_needs(script: Script) -> None:
    path = "tests/trials/fuzz.py"
    if find_spec("atheris") is None:
        script(path, *RUN_HERE[path], code="fuzzing needs a package: pip install 'steerkit-hf[fuzz]'")
    else:
        assert "lost 0" in script(path, *RUN_HERE[path])
