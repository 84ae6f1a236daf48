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
from pocket import SMALL, options

from steerkit import SteeringVector, load_pair, load_recipe, read_rows
from steerkit.callbacks import SteeringCallback
from steerkit.data.trace import Prompt, Span, Trace
from steerkit.errors import SteerkitError
from steerkit.models.language_model import LanguageModel
from steerkit.run import SteeringTrainer

STAGES = [
    "prompts",
    "traces",
    "spans",
    "extract base",
    "extract reasoning",
    "vectors",
    "lens",
    "choose",
    "test",
    "projection",
    "perplexity",
    "agreement",
    "results",
    "report",
]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_artifact_is_there(run: Path) -> None:
    names = (
        "recipe.yaml prompts.jsonl traces.jsonl spans.jsonl generations.jsonl results.csv comparisons.csv report.html "
        "log.jsonl vectors/base.backtracking.-13..-8.safetensors"
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
    tokenizer = load_pair("pocket:base", "pocket:reasoning").reasoning.tokenizer
    traces = {t.id: t for t in read_rows(run / "traces.jsonl", Trace)}
    for span in read_rows(run / "spans.jsonl", Span)[:50]:
        trace = traces[span.trace_id]
        shown = tokenizer.decode(trace.tokens[span.first : span.last + 1])
        assert trace.text[span.start : span.end] in shown
        assert shown.strip() in trace.text[max(0, span.start - 1) : span.end + 1]


def test_results_have_a_row_a_condition_and_metric(run: Path) -> None:
    rows = rows_of(run / "results.csv")
    assert {r["experiment"] for r in rows} == {"transfer", "baselines", "offsets", "layers", "projection", "agreement"}
    assert {r["metric"] for r in rows} >= {"keyword", "keyword_uncollapsed", "judged_sentences", "other_sentences"}
    assert {r["method"] for r in rows} == {"none", "dom", "gaussian-noise", "deduction"}
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
    """b of one condition, recomputed from generations.jsonl in five lines."""
    texts: dict[str, str] = {}
    for line in (run / "generations.jsonl").read_text().splitlines():
        row = json.loads(line)
        if (row["split"], row["target"], row["method"]) == ("test", "reasoning", "none"):
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
    pair = load_pair("pocket:base", "pocket:reasoning", id_map=recipe.id_map)
    spans = read_rows(run / "spans.jsonl", Span)
    traces = read_rows(run / "traces.jsonl", Trace)
    hidden = {t.id: block_outputs(pair[role], pair.ids_for(role, t.tokens)) for t in traces}
    length = {t.id: len(t.tokens) for t in traces}
    files = sorted((run / "vectors").glob(f"{role}.*.safetensors"))
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
        assert len(oracle) == len(vector.layers) == pair.base.depth
        for layer in vector.layers:
            ours = vector.direction(layer).double().numpy()
            assert np.linalg.norm(ours - oracle[layer]) <= 1e-5 * np.linalg.norm(oracle[layer]), (path.name, layer)


def test_a_finished_run_repeated_does_nothing(run: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in run.rglob("*") if p.is_file() and p.name not in ("recipe.yaml", ".lock")}
    done = subprocess.run([sys.executable, "-m", "steerkit", *options(run)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {p: p.stat().st_mtime_ns for p in before} == before


KILLED = """
import os, signal, sys
from steerkit.callbacks import SteeringCallback
from steerkit.recipe.load import load_recipe
from steerkit.run import SteeringTrainer

class Kill(SteeringCallback):
    def on_stage_begin(self, trainer, stage):
        self.hit(stage)
    def on_batch_end(self, trainer, stage, done, total):
        self.hit(stage)
    def hit(self, stage):
        self.left = getattr(self, "left", 2) - (stage == sys.argv[1])
        if self.left == 0 or (stage == sys.argv[1] and stage in sys.argv[2].split(",")):
            os.kill(os.getpid(), signal.SIGKILL)

SteeringTrainer.from_recipe(load_recipe("backtracking", sys.argv[3:]), callbacks=[Kill()]).run()
"""


def test_killed_in_every_stage_and_resumed(run: Path, tmp_path: Path) -> None:
    """kill -9 as each stage begins or after its first batch; the last run ends with the uninterrupted results."""
    folder = tmp_path / "killed"
    without_batches = "prompts,spans,vectors,lens,projection,agreement,results,report"
    for stage in STAGES:
        done = subprocess.run(
            [sys.executable, "-c", KILLED, stage, without_batches, f"output_dir={folder}", *SMALL], capture_output=True
        )
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()
        if stage == "test":  # and a torn last line
            (part,) = (folder / "parts").glob("test.*.partial")
            with part.open("a") as file:
                file.write('{"stage": "test", "pl')
    done = subprocess.run([sys.executable, "-m", "steerkit", *options(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in (
        "traces.jsonl",
        "spans.jsonl",
        "generations.jsonl",
        "projections.jsonl",
        "likelihoods.jsonl",
        "lens.csv",
        "agreement.csv",
        "results.csv",
        "comparisons.csv",
    ):
        assert (folder / name).read_bytes() == (run / name).read_bytes(), name


def test_ctrl_c_keeps_what_is_done(tmp_path: Path) -> None:
    class Stop(SteeringCallback):
        def on_batch_end(self, trainer: SteeringTrainer, stage: str, done: int, total: int) -> None:
            if stage == "traces":
                os.kill(os.getpid(), signal.SIGINT)

    recipe = load_recipe("backtracking", [f"output_dir={tmp_path}/run", *SMALL])
    with pytest.raises(KeyboardInterrupt):
        SteeringTrainer.from_recipe(recipe, callbacks=[Stop()]).run()
    (part,) = (tmp_path / "run/parts").glob("traces.*.0-of-1.partial")
    assert len(part.read_text().splitlines()) == 32  # the first batch


def test_a_folder_of_another_recipe_is_refused(run: Path) -> None:
    recipe = load_recipe("backtracking", [f"output_dir={run}", *SMALL, "temperature=0.5"])
    with pytest.raises(
        SteerkitError, match=r"holds the run of another recipe \(1 settings? differ.*temperature is 0.5 and was"
    ) as caught:
        SteeringTrainer.from_recipe(recipe).run()
    assert "--out" in str(caught.value) and "--update" in str(caught.value)


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Iterator[Path]:
    import shutil

    shutil.copytree(run, tmp_path / "moved", ignore=shutil.ignore_patterns(".lock"))
    yield tmp_path / "moved"


def test_update_keeps_the_stages_that_a_change_does_not_touch(copied: Path) -> None:
    before = (copied / "traces.jsonl").stat().st_mtime_ns, (copied / "generations.jsonl").read_bytes()
    recipe = load_recipe("backtracking", [f"output_dir={copied}", *SMALL, "confidence=0.8"])
    SteeringTrainer.from_recipe(recipe, update=True).run()
    assert ((copied / "traces.jsonl").stat().st_mtime_ns, (copied / "generations.jsonl").read_bytes()) == before


def test_a_changed_artifact_is_named(copied: Path) -> None:
    path = copied / "traces.jsonl"
    path.write_bytes(path.read_bytes().replace(b"list", b"lisp", 1))
    recipe = load_recipe("backtracking", [f"output_dir={copied}", *SMALL])
    with pytest.raises(SteerkitError, match=r"traces.jsonl: was changed after stage 'traces' wrote it"):
        SteeringTrainer.from_recipe(recipe).run()
