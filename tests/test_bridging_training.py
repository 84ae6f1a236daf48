"""Trainings with objective `bridging`: gone on with, and with weights of the L1 term."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from steerkit_plugins.transcoder.objective import Bridging
from tiny_training import run, same, weights
from tiny_transcoder import adapter, hybrid

from steerkit.training.train import Trained

ARGUMENTS: dict[str, Any] = {"num_train_epochs": 1.0, "save_strategy": "steps", "save_steps": 2, "weight_decay": 0.0}


def trained(folder: Path, *, l1: float = 1e-3, **arguments: Any) -> Trained:
    return run(
        hybrid("llama", on=False),
        folder,
        adapter=adapter(features=16),
        objective=Bridging(l1=l1),
        arguments={**ARGUMENTS, **arguments},
    )


def test_it_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """The cuts and the count of silent features, too."""
    whole = trained(tmp_path)
    shutil.rmtree(tmp_path / "checkpoint-4")
    assert (tmp_path / "checkpoint-2" / "objective_0.safetensors").is_file()
    again = trained(tmp_path)
    assert same(weights(whole.lm), weights(again.lm)) and whole.log == again.log
    assert whole.log[-1].parts.keys() >= {"kl", "student_then_target", "nmse.3", "l1", "l0", "dead.100"}


def test_l0_falls_as_its_weight_rises(tmp_path: Path) -> None:
    """Rows, their order, first weights and cuts are the same."""
    arguments = {"num_train_epochs": 6.0, "learning_rate": 3e-2, "save_strategy": "no"}
    found = [trained(tmp_path / str(l1), l1=l1, **arguments).log for l1 in (0.0, 0.03, 0.3)]
    assert len({log[0].parts["kl"] for log in found}) == 1
    l0 = [sum(row.parts["l0"] for row in log[-6:]) / 6 for log in found]
    assert l0[1] < l0[0] - 0.3 and l0[2] < l0[1] - 0.3
    assert found[0][-1].parts["kl"] < 0.8 * found[0][0].parts["kl"]
