"""A whole run at small size: its artifacts, doing nothing twice, surviving kills, refusing what it must."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from console import Steerkit
from pocket import SAME, SMALL, STEPS, options

from steerkit import SteeringVector, load_model, load_models, load_recipe, read_rows
from steerkit.callbacks import SteeringCallback
from steerkit.context import Run
from steerkit.data.trace import Prompt, Span, Trace
from steerkit.errors import SteerkitError
from steerkit.models.language_model import LanguageModel
from steerkit.provenance import settings_of
from steerkit.recipe.load import planned_run
from steerkit.run import SteeringTrainer
from steerkit.store.folder import read_state

ALL = [
    *STEPS,
    "findings.transfer",
    "findings.controls",
    "findings.baselines",
    "findings.offsets",
    "findings.layers",
    "findings.lens",
    "findings.projection",
    "findings.agreement",
    "findings.texts",
    "results",
    "directions",
    "report",
]
IN_PIECES = ("traces", "statistics", "generations", "likelihoods", "directions")
MORE = (
    "findings/transfer.json",
    "findings/controls.json",
    "projections.jsonl",
    "lens.csv",
    "agreement.csv",
    "directions.csv",
    "directions.cosines.csv",
)
"""Files of its experiments that it ends with likewise."""


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_artifact_is_there(run: Path) -> None:
    names = (
        "recipe.yaml prompts.jsonl traces.jsonl spans.jsonl generations/choose.jsonl generations/test.jsonl "
        "scores/test.jsonl findings/transfer.json results.csv comparisons.csv report.html log.jsonl "
        "vectors/base.backtracking.-13..-8.safetensors"
    )
    for name in names.split():
        assert (run / name).stat().st_size, name
    assert list((run / "figures").glob("*.png"))
    prompts = read_rows(run / "prompts.jsonl", Prompt)
    assert {s: sum(p.split == s for p in prompts) for s in ("extract", "choose", "test")} == {
        "extract": 48,
        "choose": 4,
        "test": 4,
    }
    assert len({p.prompt for p in prompts}) == len(prompts)


def test_spans_are_characters_and_tokens_of_their_trace(run: Path) -> None:
    tokenizer = load_model("pocket:reasoning").tokenizer
    traces = {t.id: t for t in read_rows(run / "traces.jsonl", Trace)}
    for span in read_rows(run / "spans.jsonl", Span)[:50]:
        trace = traces[span.trace_id]
        shown = tokenizer.decode(trace.tokens[span.first : span.last + 1])
        assert trace.text[span.start : span.end] in shown
        assert shown.strip() in trace.text[max(0, span.start - 1) : span.end + 1]


def test_results_have_a_row_a_condition_and_metric(run: Path) -> None:
    rows = rows_of(run / "results.csv")
    assert {r["experiment"] for r in rows} == {
        "transfer",
        "controls",
        "baselines",
        "offsets",
        "layers",
        "projection",
        "agreement",
    }
    assert {r["metric"] for r in rows} >= {"keyword", "keyword_uncollapsed", "judged_sentences", "other_sentences"}
    assert {r["method"] for r in rows if r["experiment"] != "controls"} == {
        "none",
        "dom",
        "gaussian-noise",
        "deduction",
        "labels shuffled over all traces",
    }
    assert {r["split"] for r in rows} == {"choose", "test"}
    for row in rows:
        assert int(row["n_prompts"]) <= 4
        if row["mean"]:
            assert (
                float(row["ci_low"]) <= float(row["mean"]) + 1e-9 and float(row["mean"]) <= float(row["ci_high"]) + 1e-9
            )
    steered = {r["added_norm"] for r in rows if r["experiment"] == "baselines" and r["method"] != "none"}
    assert steered == {"30"}  # every baseline at the same norm


def test_results_are_what_the_texts_say(run: Path) -> None:
    """b of one condition, recomputed from the generations in five lines."""
    texts: dict[str, str] = {}
    for line in (run / "generations/test.jsonl").read_text().splitlines():
        row = json.loads(line)
        if (row.get("target"), row.get("method")) == ("reasoning", "none"):
            texts[row["prompt_id"]] = row["text"].split("</think>")[0]
    words = [[w.strip(".,!?;:\"'").lower() for w in text.split()] for text in texts.values()]
    b = np.mean([sum(w in ("wait", "hmm") for w in ws) / len(ws) for ws in words])
    (row,) = (
        r
        for r in rows_of(run / "results.csv")
        if (r["experiment"], r["split"], r["target"], r["method"], r["metric"])
        == ("transfer", "test", "reasoning", "none", "keyword")
    )
    assert float(row["mean"]) == pytest.approx(b, abs=1e-6)


def block_outputs(lm: LanguageModel, ids: list[int]) -> np.ndarray:
    """[L, T, H] float64, by plain hooks (HF's last hidden state is after the final norm)."""
    seen: list[torch.Tensor] = []
    handles = [block.register_forward_hook(lambda m, a, out: seen.append(out[0])) for block in lm.blocks]
    with torch.inference_mode():
        lm.model(torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    return torch.stack(seen).double().numpy()


@pytest.mark.parametrize("role", ["base", "reasoning"])
def test_vectors_equal_the_numpy_oracle_on_every_layer_and_window(run: Path, role: str) -> None:
    """Eq. 3, one trace at a time; a sweep's windows are over the spans that have all of -40..5."""
    recipe = load_recipe("backtracking")
    models = load_models(recipe.models, writer="reasoning")
    spans = read_rows(run / "spans.jsonl", Span)
    traces = read_rows(run / "traces.jsonl", Trace)
    hidden = {t.id: block_outputs(models[role], models.ids_for(role, t.tokens)) for t in traces}
    length = {t.id: len(t.tokens) for t in traces}
    files = sorted((run / "vectors").glob(f"{role}.*.safetensors"))
    files = [path for path in files if "draw" not in SteeringVector.load(path).info.method]
    assert len(files) == (4 if role == "base" else 1)
    for path in files:
        vector = SteeringVector.load(path)
        a, b = vector.info.window
        low, high = (-40, 5) if ".sweep." in path.name else (a, b)
        positive, every = [], []
        for trace in traces:
            own = [s for s in spans if s.trace_id == trace.id]
            own = [s for s in own if s.first + low >= 1 and s.first + high < length[trace.id]]
            windows = [hidden[trace.id][:, s.first + a : s.first + b + 1].mean(1) for s in own]
            chosen = [w for s, w in zip(own, windows, strict=True) if s.label == vector.info.label]
            every += [np.mean(windows, 0)] if windows else []
            positive += [np.mean(chosen, 0)] if chosen else []
        oracle = np.mean(positive, 0) - np.mean(every, 0)
        assert len(oracle) == len(vector.layers) == models["base"].depth
        for layer in vector.layers:
            ours = vector.direction(layer).double().numpy()
            assert np.linalg.norm(ours - oracle[layer]) <= 1e-5 * np.linalg.norm(oracle[layer]), (path.name, layer)


def test_a_finished_run_repeated_does_nothing(run: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file() and p.name not in ("recipe.yaml", ".lock")}
    done = subprocess.run([sys.executable, "-m", "steerkit", *options(run)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {p: p.stat().st_mtime_ns for p in before} == before


KILLED = """
import json, os, signal, sys
import torch
from steerkit import load_model
from steerkit.callbacks import SteeringCallback
from steerkit.recipe.load import load_recipe
from steerkit.run import SteeringTrainer

steps, in_pieces, settings = json.loads(sys.argv[1])
torch.set_num_threads(1)
load_model("pocket:base")  # what a run imports is there for all forks

class Kill(SteeringCallback):
    def __init__(self, step):
        self.step = step
    def on_step_begin(self, run, step):
        if step == self.step and not step.startswith(tuple(in_pieces)):
            os.kill(os.getpid(), signal.SIGKILL)
    def on_batch_end(self, run, step, done, total):
        if step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)

for step in steps:
    if not (pid := os.fork()):
        torch.set_num_threads(1)  # a new thread pool in place of the one that a fork leaves unusable
        SteeringTrainer.from_recipe(load_recipe("backtracking", settings), callbacks=[Kill(step)]).run()
        os._exit(0)
    print(step, os.WTERMSIG(os.waitpid(pid, 0)[1]), flush=True)
    sys.stdin.readline()
"""


def test_killed_in_every_step_and_resumed(run: Path, tmp_path: Path) -> None:
    """kill -9 as each step begins, or behind its first piece; the last run ends with the uninterrupted results."""
    folder = tmp_path / "killed"
    assert list(read_state(run)["steps"]) == ALL
    told = json.dumps([ALL, IN_PIECES, [f"output_dir={folder}", *SMALL]])
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, told],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
    ) as process:
        assert process.stdin and process.stdout
        for step in ALL:
            assert process.stdout.readline() == f"{step} {signal.SIGKILL.value}\n"
            pieces = list((folder / "pieces").glob("*/[0-9]*"))
            assert len(pieces) == step.startswith(IN_PIECES), step
            if step == "generations.test":  # and another piece that was being written
                half = pieces[0].parent / ".000001.tmp"
                half.mkdir()
                (half / "000001").write_bytes(pieces[0].read_bytes()[:100])
            elif step == "generations.choose":  # a torn piece is done again
                os.truncate(pieces[0], 100)
            elif step == "traces":  # and so is one that is whole and not as it was written
                pieces[0].write_bytes(pieces[0].read_bytes().replace(b"true", b"null", 1))
            process.stdin.write("\n")
    done = subprocess.run([sys.executable, "-m", "steerkit", *options(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_same(folder, run)
    assert not (folder / "pieces").exists()


def assert_same(folder: Path, run: Path) -> None:
    """The files of two runs are equal, byte for byte."""
    vectors = [f"vectors/{path.name}" for path in sorted((run / "vectors").iterdir())]
    for name in (*SAME, *MORE, *vectors):
        assert (folder / name).read_bytes() == (run / name).read_bytes(), name


def test_ctrl_c_keeps_what_is_done(tmp_path: Path) -> None:
    class Stop(SteeringCallback):
        def on_batch_end(self, run: Run, step: str, done: int, total: int) -> None:
            if step == "traces":
                os.kill(os.getpid(), signal.SIGINT)

    recipe = load_recipe("backtracking", [f"output_dir={tmp_path}/run", *SMALL])
    with pytest.raises(KeyboardInterrupt):
        SteeringTrainer.from_recipe(recipe, callbacks=[Stop()]).run()
    (piece,) = (tmp_path / "run/pieces").glob("traces.*/000000.*")
    assert len(json.loads(piece.read_text())) == 32  # the first piece
    assert list(read_state(tmp_path / "run")["steps"]) == ["prompts", "chats"]


def test_a_folder_of_another_recipe_is_refused(run: Path) -> None:
    recipe = load_recipe("backtracking", [f"output_dir={run}", *SMALL, "temperature=0.5"])
    with pytest.raises(
        SteerkitError, match=r"holds the run of another recipe \(1 settings? differ.*temperature is 0.5 and was"
    ) as caught:
        SteeringTrainer.from_recipe(recipe).run()
    assert "--out" in str(caught.value) and "--update" in str(caught.value)


def test_the_recipe_that_a_run_leaves_is_a_recipe(run: Path) -> None:
    again = load_recipe(str(run / "recipe.yaml"))
    settings = yaml.safe_load((run / "recipe.yaml").read_text())
    del settings["made_with"]
    assert json.loads(json.dumps(settings_of(*planned_run(again)))) == json.loads(json.dumps(settings))


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Iterator[Path]:
    import shutil

    shutil.copytree(run, tmp_path / "moved", ignore=shutil.ignore_patterns(".lock"))
    yield tmp_path / "moved"


def test_update_keeps_the_steps_that_a_change_does_not_touch(copied: Path) -> None:
    before = (copied / "traces.jsonl").stat().st_mtime_ns, (copied / "generations/test.jsonl").read_bytes()
    recipe = load_recipe("backtracking", [f"output_dir={copied}", *SMALL, "confidence=0.8"])
    SteeringTrainer.from_recipe(recipe, update=True).run()
    assert ((copied / "traces.jsonl").stat().st_mtime_ns, (copied / "generations/test.jsonl").read_bytes()) == before


def test_a_dry_run_says_what_an_update_would_do_again(copied: Path, steerkit: Steerkit) -> None:
    plan = [*options(copied, "confidence=0.8"), "--update", "--dry-run"]
    lines = steerkit(*plan).stdout.splitlines()
    start = lines.index(f"steps in {copied}")
    said = {line.split(":")[0].strip(): line.split(": ")[1].split(", ") for line in lines[start + 1 :]}
    perhaps = said.pop("done again, if those before them find something else")
    assert {"generations.test", "scores.test"} <= {*perhaps}
    assert {"prompts", "traces", "vectors", "scores.choose"} <= {*said.pop("kept")}
    assert {"findings.choose", "findings.transfer", "results", "report"} <= {*said.pop("done again")}
    assert not said
    same = steerkit(*options(copied), "--update", "--dry-run").stdout.splitlines()
    assert same[same.index(f"steps in {copied}") + 1 :] == [f"  kept: {', '.join(ALL)}"]
    empty = steerkit(*options(copied.parent / "none"), "--update", "--dry-run").stdout
    assert "not done yet: prompts, " in empty and not (copied.parent / "none").exists()


def test_a_changed_artifact_is_named(copied: Path) -> None:
    path = copied / "traces.jsonl"
    path.write_bytes(path.read_bytes().replace(b"list", b"lisp", 1))
    recipe = load_recipe("backtracking", [f"output_dir={copied}", *SMALL])
    with pytest.raises(SteerkitError, match=r"traces.jsonl: was changed after step 'traces' wrote it"):
        SteeringTrainer.from_recipe(recipe).run()
