"""Files that were made to harm: each is refused in words, soon, in little memory, and nothing of it is run."""

from __future__ import annotations

import ast
import json
import pickle
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from annotate_run import write_run as write_annotated
from console import Steerkit
from report_run import write_run

sys.path.append(str(Path(__file__).parent / "trials"))
from targets import TARGETS, attempt

import steerkit
from steerkit.data.importing import read_spans
from steerkit.data.trace import Span, Trace, read_rows
from steerkit.errors import SteerkitError
from steerkit.findings import Findings
from steerkit.models.loading import load_model
from steerkit.store.text_files import LONGEST

SOURCES = [Path(steerkit.__file__).parent, Path(steerkit.__file__).parent.parent / "plugins"]


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, told: Path) -> None:
        self.told = told

    def __reduce__(self) -> Any:
        return Path.touch, (self.told,)


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    return "\n".join([*lines, *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels))])


def gguf(tensors: int, fields: bytes, count: int) -> bytes:
    kind = b"general.architecture"
    first = struct.pack("<Q", len(kind)) + kind + struct.pack("<IQ", 8, 13) + b"controlvector"
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, count) + first + fields


def header(head: dict[str, Any], data: bytes = b"") -> bytes:
    text = json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text + data


ARRAY = struct.pack("<Q", 1) + b"x" + struct.pack("<IIQ", 9, 7, 2**60)  # key x: an array of 2^60 booleans
NESTED = struct.pack("<Q", 1) + b"x" + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 5000
HUGE = {"direction.1": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
META = {"__metadata__": {"format": "steerkit-vector-1", "info": "[" * 10**6, "norms": "{}"}}
RECORD = {"key": "abc", "seconds": 1}
HEADS = {"__metadata__": {"windows": "[" * 10**6, "meta": "{}"}}
BOMBS = {
    "yaml of aliases": ("recipe", ("extends: backtracking\nname: m\n" + bomb(9)).encode(), "50,000 values"),
    "yaml of itself": ("recipe", b"a: &a\n  b: *a\n", "levels deep"),
    "yaml a taxonomy": ("taxonomy", ("- " + bomb(9).replace("\n", "\n- ")).encode(), "50,000 values"),
    "yaml a run's recipe": ("run-recipe", bomb(9).encode(), "50,000 values"),
    "yaml nested": ("recipe", b"a: " + b"[" * 100_000, "levels deep"),
    "yaml with code": ("recipe", b"name: !!python/object/apply:os.system [touch x]\n", "name"),
    "yaml with code in a run": ("run-recipe", b"name: !!python/object/apply:os.system [touch x]\n", "is not YAML"),
    "yaml of megabytes": ("recipe", b"a: 1\n" * 100_000, "larger than 256 KiB"),
    "yaml with a huge number": ("recipe", b"layer: " + b"9" * 100_000, "can't be read"),
    "yaml of other kinds": ("recipe", b"about: !!timestamp 2001-01-01\nname: !!binary aGk=\n", "timestamp"),
    "json nested": ("spans", b"[" * 200_000, "nested too deeply"),
    "json with a huge number": ("prompts", b'{"prompt": "x", "id": ' + b"9" * 10_000 + b"}", "not a JSON line"),
    "json with half a pair": ("traces", b'{"prompt": "x", "trace": "\\ud83d"}', "half of a surrogate pair"),
    "json tokens": (
        "traces",
        json.dumps(
            {"id": "a", "prompt_id": "a", "prompt": "", "text": "x", "prompt_ids": [], "ids": [10**30], "starts": [0]}
        ).encode(),
        "31 bits",
    ),
    "json places": (
        "traces",
        json.dumps(
            {"id": "a", "prompt_id": "a", "prompt": "", "text": "x", "prompt_ids": [], "ids": [1, 2], "starts": [9, 0]}
        ).encode(),
        "in order",
    ),
    "state": ("state", json.dumps({"steps": {"traces": {**RECORD, "files": {"../../x": None}}}}).encode(), "'../../"),
    "state nested": ("state", b'{"a": ' * 100_000, "is damaged"),
    "answers nested": ("answers", b'{"key": "a", "model": "m", "answer": 5}\n', "is no file of answers"),
    "gguf array": ("gguf", gguf(0, ARRAY, 2), "at most 1,048,576"),
    "gguf arrays in arrays": ("gguf", gguf(0, NESTED, 2), "an array of the type 9"),
    "gguf tensors": ("gguf", gguf(2**62, b"", 1), "at most 4,096"),
    "gguf fields": ("gguf", gguf(0, b"", 2**63), "at most 4,096"),
    "gguf tensor": ("gguf", gguf(1, struct.pack("<Q11sIQQIQ", 11, b"direction.1", 2, 2**31, 2**31, 0, 0), 1), "shape"),
    "safetensors size": ("vector", struct.pack("<Q", 2**60) + b"{}", "not a steerkit vector"),
    "safetensors shape": ("vector", header(HUGE), "not a steerkit vector"),
    "safetensors metadata": ("vector", header(META), "not a steerkit vector"),
    "statistics metadata": ("statistics", header(HEADS), "not a statistics file"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(name: str, tmp_path: Path) -> None:
    target, data, said = BOMBS[name]
    assert attempt(TARGETS[target], data, tmp_path) == ""
    path = tmp_path / f"again{TARGETS[target].suffix}"
    path.write_bytes(data)
    with pytest.raises(SteerkitError) as caught:
        TARGETS[target].read(path)
    assert said in str(caught.value) and len(str(caught.value)) < 5000


@pytest.mark.parametrize("name", TARGETS)
def test_pickles_are_read_by_nothing(name: str, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    assert attempt(TARGETS[name], pickle.dumps(Evil(tmp_path / "told")), tmp_path / "work") == ""
    assert not (tmp_path / "told").exists()


def test_sparse_files_are_refused_at_once(tmp_path: Path) -> None:
    for name, target in TARGETS.items():
        folder = tmp_path / name
        folder.mkdir()
        path = folder / f"mine{target.suffix}"
        with path.open("wb") as file:
            file.truncate(2**40)  # a terabyte that takes no room
        if name in ("override", "state", "answers", "answer"):  # no files, or a run's own
            continue
        with pytest.raises(SteerkitError):
            target.read(path)


def test_a_line_without_end(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("x" * (LONGEST + 1))
    with pytest.raises(SteerkitError, match="has a line of more than 16 MiB, which no row of text takes"):
        read_rows(path, Span)


def test_annotations_that_take_long_to_find(tmp_path: Path) -> None:
    """Thousands of sections that stand everywhere, nowhere, or nearly somewhere."""
    text = " ".join(f"word{i % 50} and so on." for i in range(2000))
    trace = Trace(id="t0", prompt_id="t0", prompt="", text=text)
    for section in ("and so on.", "nowhere at all here", "word1 nad so no. word2 and os on"):
        path = tmp_path / "x.jsonl"
        path.write_text(json.dumps({"id": "t0", "annotated": f'["a"] {section} ["end-section"]' * 3000}))
        assert len(read_spans(path, [trace], ["a"]).spans) <= 2000


def calls(path: Path) -> set[str]:
    """Modules that a file imports, and what it calls, by their last names."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(str(node.module))
        elif isinstance(node, ast.Call):
            found.add(ast.unparse(node.func))
            found |= {f"{keyword.arg}={ast.unparse(keyword.value)}" for keyword in node.keywords}
    return found


def test_nothing_in_the_package_reads_pickle_or_runs_text() -> None:
    wanted = {
        "pickle",
        "dill",
        "joblib",
        "marshal",
        "shelve",
        "torch.load",
        "np.load",
        "numpy.load",
        "pd.read_pickle",
        "eval",
        "exec",
        "yaml.load",
        "yaml.unsafe_load",
        "yaml.full_load",
        "os.system",
        "allow_pickle=True",
        "weights_only=False",
        "shell=True",
    }
    files = {path.relative_to(source).as_posix(): path for source in SOURCES for path in source.rglob("*.py")}
    found = {name: calls(path) & wanted for name, path in files.items()}
    plugins = "steerkit_plugins"
    allowed = {  # on its way between a run's own processes; never from a file
        f"{plugins}/engines/vllm.py",
        f"{plugins}/engines/vllm_worker.py",
        f"{plugins}/executors/ray/pool.py",
        f"{plugins}/executors/ray/worker.py",
    }
    assert {name: names for name, names in found.items() if names and name not in allowed} == {}
    assert all(found[name] == {"pickle"} for name in allowed)


def test_weights_in_pickle_are_not_read(tmp_path: Path) -> None:
    from tiny import build

    lm = build("llama")
    lm.model.save_pretrained(tmp_path / "m")
    lm.tokenizer.save_pretrained(tmp_path / "m")
    load_model(str(tmp_path / "m"))
    (tmp_path / "m/model.safetensors").unlink()
    torch.save({"x": Evil(tmp_path / "told")}, tmp_path / "m/pytorch_model.bin")
    with pytest.raises(SteerkitError, match="save it as safetensors: other weights are pickle, which can run code"):
        load_model(str(tmp_path / "m"))
    (tmp_path / "a").mkdir()
    (tmp_path / "a/adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "task_type": "CAUSAL_LM"}))
    torch.save({"x": Evil(tmp_path / "told")}, tmp_path / "a/adapter_model.bin")
    lm.model.save_pretrained(tmp_path / "m")
    with pytest.raises(SteerkitError, match="weights are not read from pickle"):
        load_model(str(tmp_path / "m"), adapter=str(tmp_path / "a"))
    assert not (tmp_path / "told").exists()


def test_code_of_a_model_folder_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'told')!r}, 'w')\n")
    names = {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M", "AutoTokenizer": ["code.T", None]}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "stranger", "auto_map": names}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"auto_map": names}))
    with pytest.raises(SteerkitError, match="it brings Python code of its own along: if you trust that"):
        load_model(str(tmp_path))
    assert not (tmp_path / "told").exists()


def test_a_strangers_run_folder_is_refused_in_words(tmp_path: Path, steerkit: Steerkit) -> None:
    damages = {
        "recipe.yaml": [
            "[1]",
            "a: &a [*a]",
            "experiments: 5\n",
            "experiments: [{a: 1}]\n",
            "confidence: x\n",
            "made_with: 5\n",
        ],
        "results.csv": ["", "a,b\n1,2\n", "\0"],
        "findings/transfer.json": ["[", "5", '{"findings": {"title": 5}}', "[" * 100_000],
        "metrics.json": ["5", '[{"name": 1}]'],
        "state.json": ["[]", '{"steps": 5}', '{"steps": {"x": 5}}'],
        "spans.notes.json": ["[", '{"labels": 5}'],
        "prompts.jsonl": ["[]\n"],
        "log.jsonl": ["5\n"],
    }
    run = write_run(tmp_path / "run", {"transfer": Findings(title="x", finding="y")}, asked=("transfer",))
    for name, texts in damages.items():
        before = (run / name).read_bytes() if (run / name).exists() else None
        for text in texts:
            (run / name).write_text(text)
            done = steerkit("report", run)
            assert done.returncode == 2 and str(run) in done.stderr, (name, text, done)
        (run / name).unlink() if before is None else (run / name).write_bytes(before)
    assert steerkit("report", run).returncode == 0


def test_annotating_asks_no_server_that_the_folder_chose(tmp_path: Path, steerkit: Steerkit) -> None:
    run = write_annotated(tmp_path / "run")
    judge = "{name: llm, base_url: https://elsewhere.example/v1, api_key_env: PATH}"
    (run / "recipe.yaml").write_text(
        f"span_judge: {judge}\nscore_judge: {{name: keyword}}\nfitter: {{name: dom, label: a}}\nthink_end: x\n"
    )
    done = steerkit("annotate", run, "--annotator", "ada", "--what", "generations", "--no-open")
    assert done.returncode == 2
    assert "its judge is not asked: elsewhere.example is sent the run's texts, with the value of PATH" in done.stderr


def test_an_error_of_a_command_shows_no_secret(tmp_path: Path) -> None:
    """In a process of its own, with a key in its environment and one in what it is given."""
    words = [sys.executable, "-m", "steerkit", "recipe", "validate", "backtracking", "--set", "layer=hf_" + "aB3" * 11]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2 and "[secret]" in done.stderr
    assert "aB3" not in done.stderr + done.stdout and "Traceback" not in done.stderr
