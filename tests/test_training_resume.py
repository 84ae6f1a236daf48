"""A training that is killed at any moment goes on to the same weights and the same log, bit for bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from steerkit_plugins.objectives.response import Response
from tiny import build
from tiny_training import Full, lora, push, rows, run, same, weights
from torch import Tensor

from steerkit.errors import SteerkitError
from steerkit.models.language_model import LanguageModel
from steerkit.training import checkpoints
from steerkit.training.contract import Batch, Loss
from steerkit.training.train import Trained

OPTIONS: dict[str, Any] = {
    "edits": push(),
    "arguments": {
        "gradient_accumulation_steps": 2,
        "num_train_epochs": 3.0,
        "save_strategy": "steps",
        "save_steps": 1,
        "logging_steps": 4,
    },
}
"""Six optimizer steps of two micro-batches in three epochs, a checkpoint after each, a row of the log after four."""

CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(["tiny_training", "peft", "transformers"])


def trained(folder: Path, objective: Any = None) -> Trained:
    """Dropout in the adapter: the random states count, too."""
    adapter = lora(options={"lora_dropout": 0.2})
    return run(build("llama"), folder, adapter=adapter, objective=objective or Counted(), **OPTIONS)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Dies(Response):
    """Killed in the forward of a micro-batch; to the checkpoints it is the plain objective."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def loss(self, lm: LanguageModel, batch: Batch) -> Loss:
        if not self.left:
            stop()
        self.left -= 1
        return super().loss(lm, batch)


class Counted(Response):
    """Counts micro-batches."""

    calls = 0

    def loss(self, lm: LanguageModel, batch: Batch) -> Loss:
        self.calls += 1
        return super().loss(lm, batch)


Dies.__name__ = Counted.__name__ = "Response"


def killed(moment: str, folder: Path) -> None:
    """Runs in a process of its own, which does not outlive it."""
    torch.set_num_threads(1)
    save, seal, delete = torch.save, checkpoints.write_sealed, shutil.rmtree
    calls = dict.fromkeys(("save", "seal", "delete"), 0)

    def save_half(value: Any, path: Any, **_: Any) -> None:
        calls["save"] += 1
        save(value, path)
        if calls["save"] == 8:  # the optimizer's state, the schedule and the random states of each step: the third's
            data = Path(path).read_bytes()
            Path(path).write_bytes(data[: len(data) // 2])
            stop()

    def seal_not(*given: Any) -> None:
        calls["seal"] += 1
        stop() if calls["seal"] == 4 else seal(*given)

    def delete_half(path: Any, **_: Any) -> None:
        calls["delete"] += "checkpoint" in str(path) and not str(path).endswith(".tmp")
        if calls["delete"] == 2:
            (Path(path) / "optimizer.pt").unlink()
            stop()
        delete(path, ignore_errors=True)

    objective = Dies({"first step": 0, "second micro-batch": 7}.get(moment, 99))
    if moment == "half a file":
        torch.save = save_half
    if moment == "before the seal":
        checkpoints.write_sealed = seal_not
    if moment == "deleting an old one":
        shutil.rmtree = delete_half
    trained(folder, objective)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], Trained]:
    found = trained(tmp_path_factory.mktemp("whole"))
    return weights(found.lm), found


@pytest.mark.parametrize(
    ("moment", "left"),
    [
        ("first step", []),
        ("second micro-batch", ["checkpoint-2", "checkpoint-3"]),
        ("half a file", ["checkpoint-1", "checkpoint-2", "checkpoint-3"]),
        ("before the seal", ["checkpoint-2", "checkpoint-3", "checkpoint-4"]),
        ("deleting an old one", ["checkpoint-2", "checkpoint-3", "checkpoint-4"]),
    ],
)
def test_killed_and_gone_on_with(
    moment: str, left: list[str], whole: tuple[dict[str, Tensor], Trained], tmp_path: Path
) -> None:
    expected, uninterrupted = whole
    process = CONTEXT.Process(target=killed, args=(moment, tmp_path))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert sorted(path.name for path in tmp_path.iterdir()) == left
    again = trained(tmp_path)
    assert same(weights(again.lm), expected)
    assert (again.log, again.steered, again.steps) == (uninterrupted.log, uninterrupted.steered, 6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-5", "checkpoint-6"]


def test_a_full_disk_is_told_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's writer says ``unexpected pos`` then."""
    whole_save, room = torch.save, shutil.disk_usage(tmp_path)

    def full(*args: Any, **options: Any) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 412416 vs 412304")

    monkeypatch.setattr(torch, "save", full)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: room._replace(free=1000))
    with pytest.raises(SteerkitError, match="can't be written: No space left on device; what was done before is kept"):
        trained(tmp_path)
    monkeypatch.setattr(torch, "save", whole_save)
    assert trained(tmp_path).steps == 6


@pytest.mark.parametrize("damage", ["a bit", "no seal", "seal", "a file less"])
def test_a_damaged_checkpoint_is_passed_over(
    damage: str, whole: tuple[dict[str, Tensor], Trained], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained(tmp_path)
    newest, told = tmp_path / "checkpoint-6", Counted()
    file = newest / ("steerkit.json" if "seal" in damage else "trained.safetensors")
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    if damage in ("no seal", "a file less"):
        file.unlink()
    again = trained(tmp_path, told)
    assert f"{newest}: is not whole (written when the training was stopped, or damaged): passed over" in caplog.text
    assert told.calls == 2 and same(weights(again.lm), whole[0])
    done = Counted()
    assert same(weights(trained(tmp_path, done).lm), whole[0]) and done.calls == 0


def test_another_trainings_checkpoint_is_refused(tmp_path: Path) -> None:
    lm = build("llama")
    base: dict[str, Any] = {"arguments": {"max_steps": 2, "save_strategy": "steps"}}
    run(lm, tmp_path, **base).detach()
    message = "has a checkpoint of another training: {}; choose another folder, give the settings"
    for change, told in (
        ({"arguments": {**base["arguments"], "learning_rate": 1e-3}}, "arguments.learning_rate is 0.001 and was 0.01"),
        ({"seed": 6}, "seed is 6 and was 5"),
        ({"edits": push()}, r"edits is \[\{.*\.\.\. and was \[\]"),
        ({"rows": rows(7)}, 'rows is "[0-9a-f]{16}" and was "[0-9a-f]{16}"'),
        ({"adapter": Full(parts="mlp")}, r'adapter is \["Full", \{"parts": "mlp"\}\] and was .*'),
    ):
        with pytest.raises(SteerkitError, match=message.format(told)):
            run(lm, tmp_path, **{**base, **change})
    with torch.no_grad():
        lm.model.lm_head.weight[0, 0] += 1
    with pytest.raises(SteerkitError, match=message.format('model is "[0-9a-f]{16}" and was "[0-9a-f]{16}"')):
        run(lm, tmp_path, **base)
    with torch.no_grad():
        lm.model.lm_head.weight[0, 0] -= 1


def test_how_often_is_saved_may_change(whole: tuple[dict[str, Tensor], Trained], tmp_path: Path) -> None:
    """What leaves the weights alone: a training is gone on with where it differs."""
    OPTIONS["arguments"]["save_steps"], told = 4, Counted()
    try:
        process = CONTEXT.Process(target=killed, args=("second micro-batch", tmp_path))
        process.start()
        process.join()
        OPTIONS["arguments"]["save_steps"] = 5
        assert same(weights(trained(tmp_path, told).lm), whole[0])
    finally:
        OPTIONS["arguments"]["save_steps"] = 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-5", "checkpoint-6"]


def test_a_checkpoint_holds_what_is_trained_and_no_pickled_arguments(tmp_path: Path) -> None:
    trained(tmp_path)
    files = sorted(path.name for path in (tmp_path / "checkpoint-6").iterdir())
    assert files == [
        "optimizer.pt",
        "rng_state.pth",
        "scheduler.pt",
        "steerkit.json",
        "trained.safetensors",
        "trainer_state.json",
    ]
    seal = json.loads((tmp_path / "checkpoint-6" / "steerkit.json").read_text())
    assert sorted(seal["files"]) == [name for name in files if name != "steerkit.json"]
    assert (tmp_path / "checkpoint-6" / "trained.safetensors").stat().st_size < 40_000
