"""The recipes of transcoders at their smallest: what the pages say of faithfulness, recomputed, and what is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pocket import SIZES
from steerkit_plugins.pocket.traces import PocketTraces

from steerkit import SteeringTrainer, load_recipe
from steerkit.data.chat_format import ChatFormat
from steerkit.errors import SteerkitError
from steerkit.models.adapters import with_adapter
from steerkit.models.models import Models
from steerkit.training.masks import encode_rows
from steerkit.training.rows import rows_of

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's
SMALL = (
    *SIZES,
    "samples=1",
    "train_rows=16",
    "held_out_rows=6",
    "max_new_tokens=60",
    "adapter.features=12",
    "training_arguments.logging_steps=1",
)
PAIR = {
    "base": "pocket:base",
    "reasoning": "pocket:reasoning",
    "hybrid": {"weights": "pocket:reasoning", "parts_from": {"mlp": "base"}},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("transcoder") / "run"
    few = ("graph.places=1", "hesitation={least: 1, draws: 1, chosen_by: [contexts], kinds: [without, matched]}")
    settings = [*SMALL, *few, f"output_dir={folder}"]
    return SteeringTrainer.from_recipe(load_recipe("transcoder", settings)).run()


def findings(run: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / f"findings/{name}.json").read_text())["findings"]
    return found


def test_all_experiments_have_findings(run: Path) -> None:
    page = (run / "report.html").read_text()
    for name in ("faithfulness", "behaviour", "features", "hesitation", "graph"):
        own = findings(run, name)
        assert own["finding"] and own["tables"] and own["title"] in page
    assert {path.name for path in (run / "trained").iterdir() if path.is_dir()} == {
        f"l1-{weight}.0" for weight in ("0.001", "0.01")
    }
    assert not (run / "vectors").exists() and not (run / "stats").exists()  # nothing is steered along a vector


def test_faithfulness_is_that_of_whole_forwards(run: Path) -> None:
    models = Models(PAIR, "reasoning")
    target, hybrid = models["reasoning"], models["hybrid"]
    prompts = PocketTraces().read({"train": 16, "held_out": 6}, 0)
    rows = encode_rows(
        list(rows_of(p for p in prompts if p.split == "held_out")), ChatFormat(target.tokenizer), allowed=["</think>"]
    )

    def logs(lm: Any, ids: Any) -> np.ndarray:
        with torch.no_grad():
            return torch.log_softmax(lm.model(torch.tensor([ids]), use_cache=False).logits[0, :-1].double(), -1).numpy()

    def kl(lm: Any) -> np.ndarray:
        pairs = [(logs(target, row.ids), logs(lm, row.ids)) for row in rows]
        return np.array([(np.exp(p) * (p - q)).sum(-1).mean() for p, q in pairs])

    cells = {row[0]: row[1:] for row in findings(run, "faithfulness")["tables"][0]["rows"]}
    assert list(cells) == ["target", "hybrid", "base", "adapter (λ₁ 0.001)", "adapter (λ₁ 0.01)"]
    wanted = {"hybrid": kl(hybrid).mean(), "base": kl(models["base"]).mean()}
    for weight in ("0.001", "0.01"):
        adapter = str(run / f"trained/l1-{weight}.0")
        wanted[f"adapter (λ₁ {weight})"] = kl(with_adapter(models.copy("hybrid"), adapter)).mean()
    for name, value in wanted.items():
        assert float(cells[name][0].split()[0]) == pytest.approx(value, abs=1e-4)
    loss = -np.mean([logs(target, row.ids)[np.arange(len(row.ids) - 1), row.ids[1:]].mean() for row in rows])
    assert float(cells["target"][1].split()[0]) == pytest.approx(loss, abs=1e-4)


def test_the_papers_setting_on_the_embedded_pair(tmp_path: Path) -> None:
    given = [*SMALL, *(f"models.{name}={json.dumps(spec)}" for name, spec in PAIR.items())]
    given += ["prompts.source=pocket", "train_on=pocket-traces", "held_out=pocket-traces", "train_rows=4", "bf16=false"]
    given += ["special_in_responses=[</think>]", "max_row_tokens=120", "experiments=[faithfulness]"]
    given += ["training_arguments.gradient_checkpointing=true", "training_arguments.bf16=false", "device_map=null"]
    run = SteeringTrainer.from_recipe(load_recipe("transcoder-r1-qwen-7b", [*given, f"output_dir={tmp_path}"])).run()
    (model,) = [path for path in (run / "trained").iterdir() if path.is_dir()]
    assert model.name == "l1-0.001.42"
    assert json.loads((model / "training.json").read_text())["steps"] == 4


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("models.hybrid=pocket:reasoning", "is not reasoning with the MLPs of base"),
        ("hesitation.l1_weight=0.5", "no adapter is trained with 0.5"),
        ("faithfulness={target: nobody}", "no model is called 'nobody'"),
        ("models.hybrid={weights: pocket:reasoning, parts_from: {mlp: nobody}}", "none is called 'nobody'"),
        ("models.hybrid={weights: pocket:reasoning, parts_from: {brain: base}}", "brain"),
    ],
)
def test_what_is_wrong_is_told_before_anything_runs(change: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(SteerkitError, match=told):
        SteeringTrainer.from_recipe(load_recipe("transcoder", [*SMALL, change, f"output_dir={tmp_path / 'run'}"])).run()
    assert not (tmp_path / "run/prompts.jsonl").exists()
