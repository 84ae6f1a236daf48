"""What a training leaves: weights, and what it says of itself. On its way to the run folder it is one file."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from steerkit.store.files import atomic

LOG = "training.json"


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """What a training says of itself.

    Attributes:
        log: a row for each logged step: step, loss (per learned token), its parts, grad_norm, learning_rate.
        held_out: loss per learned token of the held-out rows before and after; None without such rows.
        steered: positions at which interventions changed something, summed over steps, rows and sites.
        measures: `step` and `values` of each measure on validation prompts.
        trainable, parameters: how many numbers were trained, and how many there are.
    """

    arm: str
    seed: int
    log: Sequence[Mapping[str, Any]]
    held_out: tuple[float, float] | None
    steps: int
    steered: int
    trainable: int
    parameters: int
    measures: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Made:
    """What a training says of itself, and its files by name."""

    told: TrainedModel
    files: Mapping[str, bytes] = field(repr=False)


def pack(path: Path, made: Made) -> None:
    """Write it as one file, whole or not at all."""
    told = json.dumps(asdict(made.told), indent=2).encode()
    with atomic(path) as temporary, tarfile.open(temporary, "w") as archive:
        for name, data in {LOG: told, **made.files}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, BytesIO(data))


def unpack(archive: Path, folder: Path) -> TrainedModel:
    """Lay the files of `pack` into a folder, in place of what was there."""
    shutil.rmtree(folder, ignore_errors=True)
    with tarfile.open(archive) as files:
        files.extractall(folder, filter="data")
    return told_of(folder)


def told_of(folder: Path) -> TrainedModel:
    """What the training of a folder's weights says of itself."""
    value = json.loads((folder / LOG).read_text(encoding="utf-8"))
    held_out = value.pop("held_out")
    return TrainedModel(**value, held_out=None if held_out is None else tuple(held_out))
