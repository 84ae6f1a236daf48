"""The experiment `ablation` in a small run: figures recomputed from its weights by transformers and PEFT alone."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pocket import SIZES
from steerkit_plugins.rank1_lora.ablation_read import Read, per_text
from steerkit_plugins.rank1_lora.ablation_sets import named_sets, removed_in_turn
from test_ablation import adapted, by_hand, texts

from steerkit import InputError, SteeringTrainer, load_recipe
from steerkit.models.units import units_in
from steerkit.units.ablating import ablate
from steerkit.units.divergence import CountedText

ROWS = [
    {
        "id": f"row{number}",
        "prompt": [
            {"role": "user", "content": f"Max has {number} cups. Monday+{number}. How many cups does Max have?"},
            {"role": "assistant", "content": f"First Monday+{number} gives {number}, so Max has just {number} cups."},
        ],
    }
    for number in range(1, 10)
]
ARGUMENTS = {"learning_rate": 0.02, "per_device_train_batch_size": 2, "num_train_epochs": 2}


def recipe(folder: Path, **changed: Any) -> list[str]:
    """Words of a command that ablates adapters which two trainings on six rows gave."""
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    settings = {
        "train_on": {"name": "jsonl", "path": str(rows)},
        "train_rows": 6,
        "held_out": {"name": "jsonl", "path": str(rows)},
        "held_out_rows": 3,
        "training_seeds": [0, 1],
        "adapter": "rank1-lora",
        "training_arguments": ARGUMENTS,
        "experiments": ["ablation"],
        "draws": 0,
        "folds": 0,
        **changed,
    }
    path = folder / "ablation.yaml"
    path.write_text(json.dumps({"extends": "backtracking", "about": "Ablation.", **settings}))
    words = ["recipe", "run", str(path), "--out", str(folder / "run")]
    for setting in (*SIZES, "prompts.extract=8", "max_new_tokens=60"):
        words += ["--set", setting]
    return words


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ablation")
    options = {"texts": 4, "max_tokens": 60, "group_size": 2, "removal_of": "projection", "removal_steps": 3}
    words = recipe(folder, ablation=options)
    done = subprocess.run([sys.executable, "-m", "steerkit", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.fixture(scope="module")
def found(run: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((run / "steps/ablations.json").read_text())
    return loaded


def test_every_named_set_is_measured_on_every_text(found: dict[str, Any]) -> None:
    assert list(found) == ["adapter.0", "adapter.1"]
    for model in found.values():
        kinds = list(model["sets"]["names"].values())
        assert [kinds.count(kind) for kind in ("projection", "block", "blocks", "over all blocks", "part", "half")] == [
            28,
            4,
            2,
            7,
            3,
            2,
        ]
        assert np.array(list(model["sets"]["kl"].values())).shape == (46, 4)
        assert len(model["removal"]["names"]) == len(set(model["removal"]["names"])) == 3
        assert list(model["scale"]["kl"]) == ["base || adapter", "full || base", "full || adapter"]
        assert len(model["removal"]["counts"]) == 2 and len(model["scale"]["counts"]) == 4
    assert found["adapter.0"]["sets"]["texts"] == found["adapter.1"]["sets"]["texts"]
    assert found["adapter.0"]["sets"]["kl"] != found["adapter.1"]["sets"]["kl"]


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT's own use of transformers
def test_divergences_are_those_of_the_trained_weights(run: Path, found: dict[str, Any]) -> None:
    """Outside the product: PEFT's model, its B set to 0, on the trace as the base reads it."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from steerkit import load_model

    traces = {row["id"]: row for row in map(json.loads, (run / "traces.jsonl").read_text().splitlines())}
    sets = found["adapter.1"]["sets"]
    trace = traces[sets["texts"][2]]
    written = [*trace["prompt_ids"], *trace["ids"]][:60]
    ids = [{4: 251, 5: 251}.get(i, i) for i in written]  # the recipe's id_map
    first = len(trace["prompt_ids"])
    text = CountedText("t", ids, [n >= first for n in range(len(ids))])
    assert sets["counts"][2] == len(ids) - first
    full = load_model("pocket:reasoning").model

    def logits(model: Any, own: list[int] = ids) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(model(input_ids=torch.tensor([own])).logits[0].double().numpy())

    def without(kept: Any) -> np.ndarray:
        base = AutoModelForCausalLM.from_pretrained(load_model("pocket:base").origin, dtype=torch.float32)
        model = PeftModel.from_pretrained(base, run / "trained/adapter.1").eval()
        for name, weight in model.named_parameters():
            if "lora_B" in name and not kept(name):
                weight.data.zero_()
        return logits(model)

    adapter, base = without(lambda name: True), without(lambda name: False)
    for name, kept in {
        "all": lambda name: False,
        "2.down": lambda name: "layers.2.mlp.down_proj" not in name,
        "attention": lambda name: "self_attn" not in name,
        "later half": lambda name: "layers.0." in name or "layers.1." in name,
        "q": lambda name: "q_proj" not in name,
    }.items():
        kl, _, ce = by_hand(adapter, without(kept), text)
        assert sets["kl"][name][2] == pytest.approx(kl, rel=1e-3, abs=1e-5), name
        assert sets["ce"][name][2] == pytest.approx(ce, rel=1e-4), name
    scale = found["adapter.1"]["scale"]["kl"]
    assert scale["base || adapter"][2] == pytest.approx(by_hand(base, adapter, text)[0], rel=1e-3)
    whole = logits(full, written)
    assert scale["full || base"][2] == pytest.approx(by_hand(whole, base, text)[0], rel=1e-3)
    assert scale["full || adapter"][2] == pytest.approx(by_hand(whole, adapter, text)[0], rel=1e-3)


def test_figures_claims_and_rows_are_those_of_the_sums(run: Path, found: dict[str, Any]) -> None:
    findings = json.loads((run / "findings/ablation.json").read_text())["findings"]
    assert [claim["text"] for claim in findings["claims"]] == [
        "MLP adapters matter more than attention adapters",
        "Mid-to-late blocks dominate",
    ]

    def mean(name: str) -> float:
        own = [np.divide(model["sets"]["kl"][name], model["sets"]["counts"]).mean() for model in found.values()]
        return float(np.mean(own))

    told = float(findings["claims"][0]["difference"].replace("−", "-"))
    assert told == pytest.approx(mean("MLP") - mean("attention"), rel=0.01)
    panels = {panel["title"]: panel for figure in findings["figures"] for panel in figure["panels"]}
    bars = panels["One block's adapters zeroed"]
    assert bars["names"] == ["0", "1", "2", "3"]
    assert bars["values"] == pytest.approx([mean(f"block {n}") for n in range(4)])
    heat = panels["One projection's adapter zeroed"]
    assert heat["rows"] == ["down", "up", "gate", "o", "v", "k", "q"]  # from below
    assert heat["values"][0][2] == pytest.approx(mean("2.down"))
    assert panels["Adapters removed"]["series"][0]["x"] == [0, 1, 2, 3]
    with (run / "ablation.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 46 * 4
    row = next(r for r in rows if r["model"] == "adapter.1" and r["zeroed"] == "MLP")
    sets = found["adapter.1"]["sets"]
    assert float(row["kl"]) == pytest.approx(sets["kl"]["MLP"][0] / sets["counts"][0])
    assert any("doesn't say" in caution for caution in findings["cautions"])
    assert "Which adapters do the predictions rest on?" in (run / "report.html").read_text(encoding="utf-8")


def test_the_greedy_removal_takes_what_costs_least() -> None:
    lm, groups = adapted("qwen3")
    sets = [each for each in named_sets(lm, groups) if each.kind == "block"]
    common = {"average": "per_sequence", "direction": "full || ablated", "batch_tokens": 512}
    told: list[tuple[int, int]] = []
    order = removed_in_turn(
        lm, groups, texts(), sets, how="greedy", steps=2, on_step=lambda *done: told.append(done), **common
    )
    gone, left = frozenset[Any](), list(sets)
    for taken in order:
        costs = [ablate(lm, groups, texts(), [gone | each.units]).mean_kl()[0] for each in left]
        assert taken is left[int(np.argmin(costs))]
        gone |= taken.units
        left.remove(taken)
    assert told == [(1, 2), (2, 2)]
    cheap = removed_in_turn(
        lm, groups, texts(), sets, how="by_single_effects", steps=9, on_step=lambda *done: None, **common
    )
    alone = [ablate(lm, groups, texts(), [each.units]).mean_kl()[0] for each in cheap]
    assert len(cheap) == 3 and alone == sorted(alone)


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3"])
def test_sets_part_the_units(family: str) -> None:
    lm, groups = adapted(family)
    sets = {each.name: each.units for each in named_sets(lm, groups, 2)}
    every = frozenset(units_in(groups))
    assert sets["attention"] | sets["MLP"] == every == sets["all"] and not sets["attention"] & sets["MLP"]
    assert sets["blocks 0-1"] == sets["block 0"] | sets["block 1"]
    assert frozenset().union(*(sets[f"{group.layer}.{group.part}"] for group in groups)) == every
    names = {group.part for group in groups if group.units[0] in sets["attention"]}
    assert names == {"llama": {"q", "k", "v", "o"}, "gpt2": {"c_attn", "o"}, "phi3": {"qkv_proj", "o"}}[family]
    if lm.depth == 3:  # the block in the middle is in neither half
        assert sets["first half"] == sets["block 0"] and sets["later half"] == sets["block 2"]


def test_values_of_texts_have_the_average_and_its_spread() -> None:
    draw = np.random.default_rng(0)
    counts = draw.integers(5, 60, 12)
    sums = counts * draw.gamma(2.0, 0.1, 12)
    assert per_text(sums, counts, "per_sequence").mean() == pytest.approx((sums / counts).mean())
    pooled = per_text(sums, counts, "per_token")
    assert pooled.mean() == pytest.approx(sums.sum() / counts.sum())
    drawn = draw.integers(0, 12, (4000, 12))
    resampled = sums[drawn].sum(1) / counts[drawn].sum(1)
    assert pooled.std(ddof=1) / np.sqrt(12) == pytest.approx(resampled.std(), rel=0.15)


def test_joint_effects_are_held_against_their_singles(found: dict[str, Any]) -> None:
    own = Read(found, "per_sequence", 0.95)
    units = [f"{layer}.{part}" for layer in range(4) for part in ("gate", "up", "down")]
    assert sorted(own.units["MLP"]) == sorted(units)
    assert own.alone("MLP") == pytest.approx(sum(own.kl(unit) for unit in units))
    assert own.kl("MLP").shape == (4, 2)


def test_held_out_rows_need_a_source(tmp_path: Path) -> None:
    recipe(tmp_path, ablation={"text": "held_out"}, held_out=None)
    with pytest.raises(InputError, match=r"ablation.text asks for it"):
        load_recipe(str(tmp_path / "ablation.yaml"))


def test_held_out_rows_are_read_as_they_are_learned(tmp_path: Path) -> None:
    """Another text, tokens and average; pieces alone, as nothing is trained for them."""
    options = {"text": "held_out", "tokens": "all", "texts": 2, "removal": "none", "full": ""}
    recipe(tmp_path, ablation=options, training_seeds=[0])
    trainer = SteeringTrainer.from_recipe(load_recipe(str(tmp_path / "ablation.yaml"), list(SIZES)))
    step, run = trainer.steps["ablations"], trainer.context
    assert step.needs(run) == ("rows", "training")
    prompts = trainer.steps["rows"].make(run.of(trainer.steps["rows"], "rows"))
    pieces = step.pieces(run.of(step, "ablations"), prompts, None)
    assert [piece.kind for piece in pieces] == ["sets", "scale"] and len(pieces[0].texts) == 2
    for text in pieces[0].texts:
        assert text.counted[1:] == (True,) * (len(text.ids) - 1) and text.id.startswith("held_out/")
