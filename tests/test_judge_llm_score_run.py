"""Whole runs whose texts get points: by a language model, and by rules in its place."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from llm_scorer import scoring
from llm_server import KEY
from pocket import SMALL

from steerkit import registry
from steerkit.errors import InputError
from steerkit.planning.plan import plan_text
from steerkit.recipe.load import load_recipe
from steerkit.run import SteeringTrainer

SMALLER = (
    *SMALL,
    "prompts.extract=16",
    "prompts.choose=2",
    "prompts.test=3",
    "max_new_tokens=40",
    "perplexity=false",
    "experiments=[transfer]",
    "extractor.sweep=null",
)
RUBRICS = "rubrics: {hedging: hedging, coherence: coherence}"
RULES = (
    "rules: {hedging: {hits: ['Perhaps|Possibly|seems'], misses: ['Next|Then|gives']}, "
    "coherence: {sentences: ['[A-Z].*[.]'], better: up}}"
)


def steered(folder: Path, judge: str, *more: str) -> None:
    recipe = load_recipe("backtracking", [*SMALLER, f"output_dir={folder}", f"score_judge={judge}", *more])
    SteeringTrainer.from_recipe(recipe).run()


def check_tables(folder: Path) -> None:
    metrics = {row["name"]: row for row in json.loads((folder / "metrics.json").read_text())}
    assert metrics["coherence"]["bounds"] == [0.0, 100.0] and metrics["coherence"]["unit"] == "points 0 to 100"
    with (folder / "results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    means = [float(row["mean"]) for row in rows if row["metric"] in ("hedging", "coherence") and row["mean"]]
    assert {"hedging", "coherence"} <= {row["metric"] for row in rows}
    assert max(means) > 1 and all(0 <= mean <= 100 for mean in means)
    ends = [float(row["ci_high"]) for row in rows if row["metric"] == "coherence"]
    assert 1 < max(ends) <= 100  # neither clipped to 1, nor beyond the bounds


def test_a_run_with_points_pays_once_and_is_made_again_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    folder = tmp_path / "run"
    with scoring() as (url, state, _):
        judge = f"{{name: llm-score, base_url: {url}, {RUBRICS}}}"
        steered(folder, judge)
        assert set(state.paid.values()) <= {1, 2}  # a text is asked about once a rubric
    check_tables(folder)
    logged = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    (estimate, *_) = (row["estimate"] for row in logged if row.get("judge") == "llm-score")
    (notes, *_) = (row for row in logged if row.get("scored_by") == "llm-score")
    assert notes["method"] == "expectation" and notes["scores"]["hedging"]["missing"] == 0
    assert notes["unusable_answers"] == {}
    assert estimate["calls"] == notes["asked_now"] > 6
    results = (folder / "results.csv").read_bytes()
    for name in ("scores/test.jsonl", "results.csv"):
        (folder / name).unlink()
    monkeypatch.delenv("OPENAI_API_KEY")
    steered(folder, judge, "score_judge.unusable=leave-out")  # no key, no server, and no other recipe for that
    assert (folder / "results.csv").read_bytes() == results
    for path in folder.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


def test_the_plan_says_what_points_will_cost() -> None:
    settings = [*SMALLER, f"score_judge={{name: llm-score, {RUBRICS}}}"]
    (line,) = (line for line in plan_text(load_recipe("backtracking", settings)).splitlines() if "llm-score" in line)
    assert re.search(r"llm-score: at most about \d+ calls, \S+ input tokens, \d+ output tokens, \S+ dollars", line), (
        line
    )


def test_a_run_with_points_by_rules(tmp_path: Path) -> None:
    steered(tmp_path / "run", f"{{name: rules-score, {RULES}}}")
    check_tables(tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            "base_url: https://elsewhere.example/v1",
            "elsewhere.example is sent the run's texts, with the value of OPENAI",
        ),
        ("rubrics: {coherence: coherense}", "rubric 'coherense' is neither a file"),
        ("cache: /answers", "does not lie below the current folder"),
    ],
)
def test_what_a_recipe_may_not_do_alone(tmp_path: Path, options: str, message: str) -> None:
    path = tmp_path / "strange.yaml"
    path.write_text(f"extends: backtracking\nscore_judge:\n  name: llm-score\n  {options}\n")
    with pytest.raises(InputError, match=message) as caught:
        load_recipe(str(path))
    assert "strange.yaml:4:" in str(caught.value)
    allowed: dict[str, Any] = {"allow": ["servers"]}
    if "base_url" in options:
        load_recipe(str(path), **allowed)


def test_the_pages_examples_are_judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parent.parent / "docs/judges.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    Path("formal.yaml").write_text("ask: 'How formal is {text}?'\n")
    specs = [yaml.safe_load(block)["score_judge"] for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    scored, ruled = (registry.get("judges", spec.pop("name"))(**spec) for spec in specs)
    assert [(metric.name, metric.better) for metric in scored.metrics()] == [
        ("coherence", "up"),
        ("formal", "neither"),
        ("short", "up"),
    ]
    (points,) = ruled.score(["First it gives 3, so Tom has about 3 eggs. Er."])
    assert points == {"hedging": 50.0, "coherence": 50.0}
