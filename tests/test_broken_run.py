"""A run with a strength that breaks its texts: the other conditions are as without it, and the report says so."""

from __future__ import annotations

import json
from pathlib import Path

from console import Steerkit
from pocket import SIZES

from steerkit.report import write_report
from steerkit.store.csv_tables import read_csv

SETTINGS = (
    *SIZES,
    "experiments=[baselines, agreement, texts]",
    "baselines={steerers: [self-amplify], labels: []}",
    "extractor.sweep=null",
    "perplexity=true",
    "agreement.judge={name: keyword, keywords: [wait, hmm]}",
)


def run(steerkit: Steerkit, folder: Path, *settings: str):
    words = [word for setting in (*SETTINGS, *settings) for word in ("--set", setting)]
    return steerkit("recipe", "run", "backtracking", "--out", str(folder), *words)


def rows(folder: Path, *, strength: float, broken: bool) -> list[dict[str, object]]:
    found = read_csv(folder / "results.csv")
    return [row for row in found if row["strength"] in (0, strength) and (row["strength"] == 1e20) == broken]


def test_one_broken_strength_leaves_the_others_as_they_are(steerkit: Steerkit, tmp_path: Path) -> None:
    whole, partly = tmp_path / "whole", tmp_path / "partly"
    assert run(steerkit, whole, "strengths=[30]").returncode == 0
    done = run(steerkit, partly, "strengths=[30, 1e+20]")
    assert done.returncode == 0, done.stderr
    condition = "source base, target reasoning, method dom, layer 1, window_start -13, window_end -8, pool own"
    said = f"{condition}, strength 1e+20 (test prompts): 4 texts broke off; prompt"
    told = " ".join(done.stderr.split())
    assert said in told
    assert "not finite in the output of block 1, where 1e+20 is added, at generated token 0" in told
    plain = [{k: v for k, v in row.items() if k != "chosen"} for row in rows(whole, strength=30, broken=False)]
    assert [{k: v for k, v in row.items() if k != "chosen"} for row in rows(partly, strength=30, broken=False)] == plain
    lost = [row for row in read_csv(partly / "results.csv") if row["strength"] == 1e20 and row["method"] == "dom"]
    assert lost
    assert all(row["mean"] is None and row["ci_low"] is None for row in lost)
    choice = json.loads((partly / "findings/choose.json").read_text())["findings"]["value"]
    assert choice["strength"] == 30
    assert "texts broke off (values that are not finite) at 1e+20" in choice["how"]
    write_report(partly)
    page = (partly / "report.html").read_text(encoding="utf-8")
    assert f"Broken texts: {condition}, strength 1e+20" in page


def test_a_run_whose_every_strength_breaks_says_so(steerkit: Steerkit, tmp_path: Path) -> None:
    done = run(steerkit, tmp_path / "run", "strengths=[1e+20]")
    assert done.returncode == 2
    told = " ".join(done.stderr.split())
    assert "no strength can be chosen: texts broke off (values that are not finite) at 1e+20" in told
