"""Trainings in each of torchrun's processes: `torchrun --nproc-per-node 2 tests/two_processes.py FOLDER`."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny import build
from tiny_training import Full, lora, push, run, weights
from tiny_transcoder import AtBlock, adapter, hybrid

from steerkit.store.files import write_json

RANK, PROCESSES = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def one(folder: Path, name: str, adapter: Any) -> None:
    """A training with other edits for each row, and what came of it in this process."""
    edits = [push(norm=1.0 + row, tokens="generated") for row in range(8)]
    arguments = {
        "gradient_accumulation_steps": 2 // PROCESSES,
        "logging_steps": 2,
        "save_strategy": "steps",
        "save_steps": 2,
    }
    trained = run(build("llama"), folder / type(adapter).__name__, adapter=adapter, edits=edits, arguments=arguments)
    save_file({key: value.clone() for key, value in weights(trained.lm).items()}, folder / f"{name}.{RANK}.safetensors")
    losses = [row.loss for row in trained.log]
    write_json(folder / f"{name}.{RANK}.json", {"losses": losses, "steered": trained.steered, "steps": trained.steps})


def bridged(folder: Path) -> None:
    """Several passes through the model in one loss."""
    arguments = {"gradient_accumulation_steps": 2 // PROCESSES, "num_train_epochs": 1.0}
    lm, objective = hybrid("llama", on=False), AtBlock(2)
    trained = run(lm, folder / "bridged", adapter=adapter(), objective=objective, arguments=arguments)
    own = {key: value.clone() for key, value in weights(trained.lm).items() if "transcoder" in key}
    save_file(own, folder / f"bridged.{RANK}.safetensors")
    losses = [row.loss for row in trained.log]
    write_json(folder / f"bridged.{RANK}.json", {"losses": losses, "steered": 0, "steps": trained.steps})


def main(folder: Path) -> None:
    bridged(folder)
    one(folder, "full", Full())
    one(folder, "lora", lora())
    if PROCESSES > 1:
        torch.distributed.barrier()
        if RANK == 0:
            shutil.rmtree(folder / "Lora" / "checkpoint-4")
        torch.distributed.barrier()
    one(folder, "again", lora())


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
    if PROCESSES > 1:
        torch.distributed.destroy_process_group()
