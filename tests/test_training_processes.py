"""Several processes (DistributedDataParallel, gloo): the same training as in one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import two_processes
from safetensors.torch import load_file
from tiny_training import same
from torch import Tensor

ROOT = Path(__file__).parent.parent


def in_two(folder: Path) -> None:
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    paths = os.pathsep.join(str(ROOT / name) for name in ("tests", "plugins", "."))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    words += [str(ROOT / "tests/two_processes.py"), str(folder)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "find_unused_parameters" not in done.stderr


def read(folder: Path, name: str, rank: int = 0) -> tuple[dict[str, Tensor], dict[str, Any]]:
    file = folder / f"{name}.{rank}"
    return load_file(f"{file}.safetensors"), json.loads(Path(f"{file}.json").read_text())


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """Each takes every other micro-batch; edits differ by row, and tokens are counted over both.

    The last training is gone on with from the middle.
    """
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    in_two(two)
    two_processes.main(one)
    for name, steps in (("full", 4), ("lora", 4), ("bridged", 2)):
        (alone, told), (first, told_first), (second, _) = read(one, name), read(two, name), read(two, name, 1)
        assert same(first, second)
        for key, value in alone.items():
            torch.testing.assert_close(first[key], value, rtol=2e-4, atol=2e-5)
        assert told_first["losses"] == pytest.approx(told["losses"], rel=1e-5)
        assert (told_first["steered"], told_first["steps"]) == (told["steered"], steps)
    again, told_again = read(two, "again")
    assert same(again, read(two, "lora")[0]) and told_again == read(two, "lora")[1]
