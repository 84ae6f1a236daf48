"""Models that a run trains: weights by arm and seed, texts of each, an interrupted run, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pocket import SIZES
from safetensors.torch import load_file

from steerkit import load_recipe
from steerkit.errors import SteerkitError
from steerkit.run import SteeringTrainer

PLUGIN = Path(__file__).parent / "plugins/arms.py"
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


def recipe(folder: Path, **changed: Any) -> list[str]:
    """Words of a command that trains on nine rows."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "arms.py").write_text(PLUGIN.read_text(encoding="utf-8"))
    settings = {
        "train_on": {"name": "jsonl", "path": str(rows)},
        "train_rows": 6,
        "held_out": {"name": "jsonl", "path": str(rows)},
        "held_out_rows": 2,
        "training_seeds": [0, 1],
        "adapter": {"name": "lora", "r": 2, "target_modules": ["q_proj", "down_proj"]},
        "training_arguments": {"learning_rate": 0.01, "per_device_train_batch_size": 2, "num_train_epochs": 2},
        "draws": 0,
        "folds": 0,
        "strengths": [30],
        "experiments": ["arms"],
        **changed,
    }
    (folder / "arms.yaml").write_text(
        json.dumps({"extends": "backtracking", "plugins": ["./arms.py"], "about": "Arms.", **settings})
    )
    words = ["recipe", "run", str(folder / "arms.yaml"), "--out", str(folder / "run")]
    for setting in SIZES:
        words += ["--set", setting]
    return words


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("trained")
    done = subprocess.run([sys.executable, "-m", "steerkit", *recipe(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def weights(run: Path, name: str) -> dict[str, Any]:
    return load_file(run / f"trained/{name}/adapter_model.safetensors")


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all((one[key] == other[key]).all() for key in one)


def test_every_arm_and_seed_has_weights_and_texts(run: Path) -> None:
    names = [f"{arm}.{seed}" for arm in ("plain", "steered", "off", "asked", "further") for seed in (0, 1)]
    assert sorted(path.name for path in (run / "trained").iterdir() if path.is_dir()) == sorted(names)
    rows = [json.loads(line) for line in (run / "generations/test.jsonl").read_text().splitlines()]
    assert {row["model"] for row in rows} == {"untrained", *names}
    told = json.loads((run / "trained/steered.0/training.json").read_text())
    assert told["steps"] == 6 and told["steered"] > 0 and len(told["held_out"]) == 2


def test_arms_differ_by_what_is_done_to_them_alone(run: Path) -> None:
    plain = weights(run, "plain.0")
    assert equal(plain, weights(run, "off.0"))  # strength 0 is no intervention, bit for bit
    for other in ("steered.0", "asked.0", "plain.1"):
        assert not equal(plain, weights(run, other))


def test_an_arm_goes_on_from_another(run: Path) -> None:
    told = [json.loads((run / f"trained/{name}/training.json").read_text()) for name in ("steered.0", "further.0")]
    assert told[1]["held_out"][0] == pytest.approx(told[0]["held_out"][1], abs=1e-5)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT's own use of transformers
def test_texts_are_those_of_the_trained_weights(run: Path) -> None:
    """Outside the product: PEFT's own model on the same prompt."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from steerkit import load_model

    lm = load_model("pocket:reasoning")
    base = AutoModelForCausalLM.from_pretrained(lm.origin, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, run / "trained/plain.1")
    rows = [json.loads(line) for line in (run / "generations/test.jsonl").read_text().splitlines()]
    own = next(row for row in rows if row["model"] == "plain.1")
    prompts = map(json.loads, (run / "prompts.jsonl").read_text().splitlines())
    prompt = next(p for p in prompts if p["id"] == own["prompt_id"])
    text = lm.tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt["prompt"]}], tokenize=False, add_generation_prompt=True
    )
    before = lm.tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([before + own["ids"]])
    with torch.no_grad():
        trained = model(ids).logits.log_softmax(-1)[0, len(before) - 1 : -1].gather(1, ids[0, len(before) :, None])
        with model.disable_adapter():
            plain = model(ids).logits.log_softmax(-1)[0, len(before) - 1 : -1].gather(1, ids[0, len(before) :, None])
    assert trained.mean() > plain.mean()  # sampled from the trained one: likelier there


def test_killed_and_given_again_it_ends_in_the_same_bytes(run: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "steerkit", *recipe(tmp_path)]
    for wanted in ("training.0", "training.1"):
        started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and started.poll() is None:
            if list((tmp_path / "run/pieces").glob(f"{wanted}.*/*")):
                break
            time.sleep(0.02)
        os.kill(started.pid, signal.SIGKILL)
        started.communicate()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for path in sorted((run / "trained").rglob("*.*")):
        if path.suffix == ".safetensors":
            assert path.read_bytes() == (tmp_path / "run" / path.relative_to(run)).read_bytes(), path
    name = "generations/test.jsonl"
    assert (run / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


def test_rows_that_cant_be_learned_are_told_before_a_text_is_written(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "steerkit", *recipe(tmp_path)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"prompt": f"Max has {n} cups."}) + "\n" for n in range(9)))
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode and "does not end in an assistant message" in done.stderr
    assert not (tmp_path / "run/traces.jsonl").exists()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"training_arguments": {"learning_rte": 1}}, "learning_rate"),
        ({"training_arguments": {"output_dir": "x"}}, "output_dir"),
        ({"training_seeds": [0, 0]}, "training_seeds"),
        ({"adapter": "lorra"}, "lora"),
        ({"train_on": None}, "train_on"),
    ],
)
def test_wrong_settings_are_named_before_anything_runs(
    changed: dict[str, Any], told: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "refused"  # one plugin file for all
    recipe(folder, **changed)
    with pytest.raises(SteerkitError, match=told):
        SteeringTrainer.from_recipe(load_recipe(str(folder / "arms.yaml"), []))
