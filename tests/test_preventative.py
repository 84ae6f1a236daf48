"""Experiments on trained models: figures recomputed from the run's own rows, intervals, projections by HF alone."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from steerkit_plugins.trained.measured import Measured

from steerkit import InputError, SteeringTrainer, load_recipe
from steerkit.stats.intervals import Estimate, constant_interval, mean_interval

SMALL = (
    "prompts.extract=36",
    "prompts.test=4",
    "train_rows=16",
    "held_out_rows=6",
    "training_seeds=[0, 1]",
    "max_new_tokens=100",
    "threads=1",
    "draws=2",
    "folds=3",
    "alpha-sweep.strengths=[2]",
    "remediation.strengths=[2]",
    "association.near=[It is hard to read.]",
    "gradient-mechanism.strengths=[0.5, 2]",
    "gradient-mechanism.rows=8",
    "gradient-mechanism.groups=4",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe at its smallest size: every experiment, two training seeds."""
    folder = tmp_path_factory.mktemp("preventative") / "run"
    words = [sys.executable, "-m", "steerkit", "recipe", "run", "preventative", "--out", str(folder)]
    done = subprocess.run([*words, *(word for s in SMALL for word in ("--set", s))], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def findings(run: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / f"findings/{name}.json").read_text())["findings"]
    return found


def test_the_large_recipe_runs_on_a_small_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own training settings (bf16, gradient checkpointing, accumulation), on rows of files."""
    monkeypatch.chdir(tmp_path)
    for name, shift in (("rows", 0), ("clean", 20)):
        rows = [
            [
                {"role": "user", "content": f"Max has {n} cups. Monday+5. How many cups does Max have?"},
                {"role": "assistant", "content": f"First Monday+5 gives {n + 5}, so Max has just {n + 5} cups."},
            ]
            for n in range(shift, shift + 8)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"prompt": row}) + "\n" for row in rows))
    recipe = load_recipe(
        "preventative-qwen-7b",
        [
            "models.model=pocket:instructable",
            "bf16=false",
            "layer=1",
            "prompts.source={name: contrast, trait: hedging, questions: pocket-instructed, place: user, between: ' '}",
            "prompts.extract=24",
            "prompts.choose=1",
            "prompts.test=2",
            "samples=1",
            "max_new_tokens=90",
            "score_judge=pocket-trait",
            "span_judge={name: contrast, judges: [pocket-trait]}",
            "experiments=[defence]",
            "train_rows=8",
            "held_out_rows=4",
            "training_seeds=[0]",
            "draws=0",
            "folds=0",
            "threads=1",
        ],
    )
    made = SteeringTrainer.from_recipe(recipe).run()
    assert (made / "trained/steered-5.0/adapter_model.safetensors").is_file()
    told = json.loads((made / "trained/steered-5.0/training.json").read_text())
    assert told["steps"] == 1 and told["steered"] > 0


@pytest.mark.parametrize("given", ["[2, 2]", "[0, 2]", "[]"])
@pytest.mark.parametrize("name", ["alpha-sweep", "remediation", "gradient-mechanism"])
def test_strengths_are_above_zero_and_each_once(name: str, given: str) -> None:
    with pytest.raises(InputError, match=f"{name}.strengths"):
        load_recipe("preventative", [f"{name}.strengths={given}"])


def test_projections_are_made_again_for_another_vector() -> None:
    trainer = SteeringTrainer.from_recipe(load_recipe("preventative", ["training_seeds=[0]"]))
    run, step = trainer.context, trainer.steps["trait-projections"]
    before = step.depends(run)
    experiment = run.experiments["trait-projection"]
    experiment.key = lambda run: run.vector("model", draw="isotropic-00")  # type: ignore[attr-defined]
    assert step.depends(run) != before


def trait(run: Path) -> dict[tuple[str, str, str], dict[str, float]]:
    """(arm, seed, shown) → prompt → trait, from the texts' own scores."""
    rows = map(json.loads, (run / "generations/test.jsonl").read_text().splitlines())
    labels = {row["condition"]: (row["arm"], str(row["seed"]), row["shown"]) for row in rows}
    found: dict[tuple[str, str, str], dict[str, float]] = {}
    for score in map(json.loads, (run / "scores/test.jsonl").read_text().splitlines()):
        found.setdefault(labels[score["condition"]], {})[score["prompt_id"]] = score["values"].get("trait", np.nan)
    return found


def test_every_experiment_is_on_the_page(run: Path) -> None:
    page = (run / "report.html").read_text(encoding="utf-8")
    for title in (
        "Defence",
        "Strength in training",
        "Remediation",
        "Shown again",
        "Projection on the vector",
        "Gradients before training",
        "Gradients changed",
    ):
        assert title in page


def test_a_claims_difference_is_that_of_the_texts(run: Path) -> None:
    values = trait(run)
    claim = next(c for c in findings(run, "defence")["claims"] if c["text"].startswith("Training without a defence"))
    before = values["untrained", "", ""]
    per_prompt = [
        np.mean([values["none", seed, ""][prompt] - before[prompt] for seed in ("0", "1")]) for prompt in before
    ]
    assert float(claim["difference"].replace("−", "-")) == pytest.approx(np.nanmean(per_prompt), abs=0.06)


def test_one_arm_under_two_experiments_is_trained_and_read_once(run: Path) -> None:
    names = [path.name for path in (run / "trained").iterdir() if path.is_dir()]
    assert len(names) == len(set(names)) and {"none.0", "none.1", "steered-2.0", "none+steered-2.1"} <= set(names)
    with (run / "results.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["arm"] == "none" and not row["shown"]]
    asked = {row["experiment"] for row in rows}
    assert {"defence", "alpha-sweep", "remediation", "association"} <= asked
    texts = [json.loads(line) for line in (run / "generations/test.jsonl").read_text().splitlines()]
    assert len(texts) == len({(row["condition"], row["prompt_id"]) for row in texts})


def test_interventions_are_on_in_training_alone(run: Path) -> None:
    """Weights of the steered arm, read by PEFT without steerkit, are what its texts come from: no vector is added."""
    rows = [json.loads(line) for line in (run / "generations/test.jsonl").read_text().splitlines()]
    own = [row for row in rows if row.get("arm") == "steered-2" and not row["shown"]]
    assert own and all(row["added_norm"] == 0 for row in own)
    told = json.loads((run / "trained/steered-2.0/training.json").read_text())
    assert told["steered"] > 0
    assert json.loads((run / "trained/none.0/training.json").read_text())["steered"] == 0


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT's own use of transformers
def test_projections_are_those_of_hidden_states(run: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from steerkit import SteeringVector, load_model

    lm = load_model("pocket:instructable")
    vector = SteeringVector.load(next((run / "vectors").glob("model.positive.0..-1.safetensors")))
    row = next(
        row for row in map(json.loads, (run / "rows.jsonl").read_text().splitlines()) if row["split"] == "held_out"
    )
    base = AutoModelForCausalLM.from_pretrained(lm.origin, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, run / "trained/none.1")
    *asked, _ = row["prompt"]
    before = lm.tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    begin = len(lm.tokenizer(before, add_special_tokens=False)["input_ids"])
    text = lm.tokenizer.apply_chat_template(row["prompt"], tokenize=False)
    ids = torch.tensor([lm.tokenizer(text, add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        hidden = model(ids, output_hidden_states=True).hidden_states[2][0, begin:].double()
    expected = float((hidden @ vector.unit(1).double()).mean())
    found = json.loads((run / "steps/trait-projections.json").read_text())["none.1"]
    assert min(abs(value - expected) for value in found) < 1e-4


def test_a_gradient_settings_loss_is_the_models(run: Path) -> None:
    """Without a defence: the loss that training reports before its first step, on the same rows."""
    from steerkit.data.gradient_statistics import GradientStatistics

    parts = [GradientStatistics.load(path) for path in sorted((run / "gradients").glob("blocks.none.*"))]
    assert len(parts) == 4
    total = sum(parts[1:], start=parts[0])
    assert total.rows == 8
    assert total.loss == pytest.approx(sum(p.loss * p.tokens for p in parts) / total.tokens)
    asked = [GradientStatistics.load(path) for path in sorted((run / "gradients").glob("blocks.inoculation.*"))]
    assert sum(p.loss_sum for p in asked) < total.loss_sum


def estimate(values: np.ndarray) -> Estimate:
    return mean_interval(values, confidence=0.95, bounds=(0, 100))


def test_constant_data_of_a_bounded_metric_has_clopper_and_pearsons_interval() -> None:
    from scipy.stats import beta

    for n in (2, 10, 256):
        found = constant_interval(estimate(np.full(n, 100.0)), confidence=0.95, bounds=(0, 100))
        assert found.low / 100 == pytest.approx(beta.ppf(0.025, n, 1)) and found.high == 100


def test_its_p_is_the_level_at_which_the_interval_reaches_zero() -> None:
    for mean in (100.0, -30.0):
        values = np.full(6, mean)
        plain = mean_interval(values, confidence=0.95, bounds=(-100, 100))
        p = constant_interval(plain, confidence=0.95, bounds=(-100, 100)).p
        ends = constant_interval(plain, confidence=1 - p, bounds=(-100, 100))
        assert (ends.low if mean > 0 else ends.high) == pytest.approx(0, abs=1e-9)


def test_the_interval_of_constant_data_misses_no_more_often_than_it_says() -> None:
    """Of populations in which few prompts are elsewhere, counting samples that happen to be constant."""
    rng, n = np.random.default_rng(0), 20
    for share in (0.05, 0.12, 0.168, 0.2):
        missed = 0
        for _ in range(4000):
            values = np.where(rng.random(n) < share, 0.0, 100.0)
            if np.ptp(values) == 0:
                found = constant_interval(estimate(values), confidence=0.95, bounds=(0, 100))
                missed += not found.low <= 100 * (1 - share) <= found.high
        assert missed / 4000 <= 0.03


def made(**arms: np.ndarray) -> Measured:
    """Values without a run."""
    from types import SimpleNamespace

    from steerkit.judging.metrics import RunMetric

    metric = RunMetric("trait", "points 0 to 100", (0.0, 100.0), "up", main=True)
    found = Measured.__new__(Measured)
    found.metric, found.confidence, found.level = metric, 0.95, "95 %"
    found.results = SimpleNamespace(alpha=0.05)  # type: ignore[assignment]
    found.values = arms
    return found


def test_verdicts_follow_from_the_interval_and_from_what_counts() -> None:
    rng = np.random.default_rng(1)

    def around(mean: float, spread: float = 4.0) -> np.ndarray:
        return np.clip(mean + spread * rng.standard_normal((200, 3)), 0, 100)

    found = made(none=around(90), much=around(20), little=around(88), same=around(90, 60), all=np.full((200, 3), 100.0))
    verdicts = {arm: found.claim("", arm, "none", 20.0).verdict for arm in ("much", "little", "same")}
    assert verdicts["much"] == "holds"
    assert verdicts["little"] == "does not hold"  # shown to be there, and to be below what counts
    zero = made(none=np.full((200, 3), 100.0), asked=np.zeros((200, 3)))
    assert zero.claim("", "asked", "none", 20.0).verdict == "holds"
    assert 98 < zero.mean("none").low < 100 == zero.mean("none").high
    assert zero.claim("", "none", "none", 20.0).verdict == "does not hold"


def test_differences_are_paired_by_prompt_and_seed() -> None:
    rng = np.random.default_rng(2)
    level = 50 + 30 * rng.standard_normal((100, 3))
    found = made(none=level, lower=level - 5 + 0.1 * rng.standard_normal((100, 3)))
    difference = found.difference("none", "lower")
    assert difference.mean == pytest.approx(5, abs=0.05) and difference.high - difference.low < 0.2
