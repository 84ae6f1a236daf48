"""TrainingArguments: the user's, steerkit's, and those that can't be meant."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import build
from tiny_training import run, same, weights

from steerkit.errors import InputError, SteerkitError
from steerkit.training.arguments import DEFAULTS, HOW, OWNED, check_arguments, make_arguments

CPU = torch.device("cpu")


def test_all_problems_at_once() -> None:
    given: dict[str, Any] = {
        "learning_rat": 1e-4,
        "learning_rate": "1e-4",
        "output_dir": "x",
        "eval_steps": 5,
        "per_device_train_batch_size": 0,
        "bf16": 1,
        "weight_decay": float("nan"),
        "max_steps": True,
        "max_grad_norm": -1.0,
        "lr_scheduler_type": "cosine",
        "optim": "adamw_trch",
        "save_strategy": "sometimes",
    }
    with pytest.raises(InputError) as caught:
        check_arguments(given)
    assert [str(problem) for problem in caught.value.problems] == [
        "learning_rat: transformers has no such training argument; did you mean 'learning_rate'?",
        "learning_rate: '1e-4' can't be meant: Input should be a valid number",
        "output_dir: is not for you to set: it is the argument folder",
        "eval_steps: is not for you to set: held-out rows are given as held_out, and measured before and after",
        "per_device_train_batch_size: is 0, and must be at least 1",
        "bf16: 1 can't be meant: Input should be a valid boolean",
        "weight_decay: is nan, no finite number",
        "max_steps: True can't be meant: Input should be a valid integer",
        "max_grad_norm: is -1.0, and must be at least 0",
        "optim: 'adamw_trch' can't be meant; did you mean 'adamw_torch'?",
        "save_strategy: 'sometimes' can't be meant; choose from best, epoch, no, steps",
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"fp16": True, "bf16": True}, "fp16: At most one of fp16 and bf16 can be True"),
        ({"warmup_steps": -1.0}, "warmup_steps: Got warmup_steps = -1"),
    ],
)
def test_what_transformers_refuses_is_named(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    check_arguments(given)
    with pytest.raises(InputError, match=message):
        make_arguments(given, tmp_path, 0, CPU)


def test_ours_and_the_users(tmp_path: Path) -> None:
    made = make_arguments({"adam_beta2": 0.95, "optim": "sgd"}, tmp_path, 7, CPU)
    assert (made.adam_beta2, made.optim, made.seed, made.data_seed, made.device.type) == (0.95, "sgd", 7, 7, "cpu")
    assert make_arguments({}, tmp_path, 7, CPU).optim == "adamw_torch"
    with pytest.raises(SteerkitError, match="the model is on cuda:1, and this process trains on cpu; load it there"):
        make_arguments({"use_cpu": True}, tmp_path, 0, torch.device("cuda", 1))
    known = {field.name for field in fields(made)}
    assert {*DEFAULTS, *HOW} <= known and not {*DEFAULTS, *HOW} & {*OWNED}
    since = {
        "restore_callback_states_from_checkpoint",
        "enable_jit_checkpoint",
        "use_liger_kernel",
        "parallelism_config",
    }
    assert {*OWNED} - since <= known


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"save_strategy": "best"}, "training arguments: 1 problem\n  save_strategy: .*metric_for_best_model"),
        ({"optim": "lomo"}, "training arguments: 1 problem\n  (optim|together): .*lomo"),
        ({"max_steps": 0}, "max_steps: is 0; give at least 1, or leave it out"),
        ({"num_train_epochs": 0.0}, "num_train_epochs: is 0.0, and must be at least 1e-06"),
    ],
)
def test_what_its_trainer_refuses_is_named(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    lm = build("llama")
    before = weights(lm)
    with pytest.raises(InputError, match=message):
        run(lm, tmp_path, arguments=given)
    assert same(weights(lm), before)


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(build("llama"), tmp_path, arguments={"save_strategy": "steps"})
    assert capfd.readouterr() == ("", "")


def test_wrong_arguments_end_it_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="training arguments: 1 problem\n  seed: is not for you to set"):
        run(build("llama"), tmp_path / "x", arguments={"seed": 3})
    assert not (tmp_path / "x").exists()
