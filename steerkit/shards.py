"""A run shared out among processes: which share is this one's, and the parts that they leave in the run folder."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from steerkit.errors import SteerkitError

T = TypeVar("T")


class PartsMissing(SteerkitError):
    """This process has done what it can; the parts of others aren't there yet."""


@dataclass(frozen=True)
class Shard:
    """Process `index` of the `count` that share a run.

    Attributes:
        index: from 0.
        count: 1 where a single process does the run.
        wait: whether it waits for the others' parts, or ends when it has done its own.
        local_index: its number among the processes that the launcher started on this machine.
        local_count: how many these are.
    """

    index: int = 0
    count: int = 1
    wait: bool = False
    local_index: int = 0
    local_count: int = 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def of(cls, text: str | None = None, *, wait: bool = False) -> Shard:
        """The share that ``i/n`` names, shared out again among the ranks of torchrun or accelerate launch, if any.

        Ranks wait for each other; with `text` they only do when asked to, as others may be out of reach.

        Raises:
            SteerkitError: `text` is not such a share.
        """
        index, count = _parse(text) if text else (0, 1)
        launched = "RANK" in os.environ and "WORLD_SIZE" in os.environ
        rank, ranks = (int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])) if launched else (0, 1)
        return cls(
            index * ranks + rank,
            count * ranks,
            wait or (text is None and ranks > 1),
            int(os.environ.get("LOCAL_RANK", 0)) if launched else 0,
            int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if launched else 1,
        )

    def of_all(self, items: Sequence[T]) -> list[T]:
        """Every count-th item: this process's."""
        return list(items[self.index :: self.count])

    def take_devices(self, device_map: str | None, device: str = "auto") -> None:
        """Use this process's share of the machine: one GPU, or as many CPU threads as each process can have.

        Raises:
            SteerkitError: one GPU is named for several processes, or there is no such device.
        """
        if self.local_count == 1:
            return
        import torch

        from steerkit.models.devices import choose_device, take

        chosen = choose_device(device)
        if chosen.index is not None and device != "auto":
            raise SteerkitError(
                f"device: {device}: {self.local_count} processes run on this machine, and that is one device; "
                f"name its kind alone, {chosen.type}, and each takes its own"
            )
        if chosen.type == "cpu":
            affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
            cores = len(affinity(0)) if affinity else os.cpu_count() or 1
            torch.set_num_threads(max(1, cores // self.local_count))
        elif device_map is None:
            take(chosen, self.local_index)


def _parse(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if not found:
        raise SteerkitError(f"--shard {text}: write i/n, as in 0/4 for the first of four")
    index, count = int(found[1]), int(found[2])
    if index >= count:
        raise SteerkitError(
            f"--shard {text}: shards are numbered from 0, here 0/{count} to {max(count - 1, 0)}/{count} "
            f"(SLURM: --array=0-{max(count - 1, 0)})"
        )
    return index, count


@dataclass(frozen=True)
class PartName:
    """What the name of a part says: ``STAGE.KEY.INDEX-of-COUNT.part``, or ``.partial`` while it grows."""

    stage: str
    key: str
    index: int
    count: int
    whole: bool

    @classmethod
    def of(cls, path: Path) -> PartName | None:
        """None when the file is no part."""
        found = re.fullmatch(r"([\w-]+)\.([0-9a-f]+)\.(\d+)-of-(\d+)\.(part|partial)", path.name)
        return cls(found[1], found[2], int(found[3]), int(found[4]), found[5] == "part") if found else None


def parts_in(folder: Path) -> dict[Path, PartName]:
    """All parts in a run folder, also those that still grow."""
    named = {path: PartName.of(path) for path in sorted((folder / "parts").glob("*"))}
    return {path: name for path, name in named.items() if name}


@dataclass(frozen=True)
class Parts:
    """The parts of one stage, for one key: what was made for other inputs has another name.

    A part is renamed when it is whole, so that being there is being done.
    """

    folder: Path
    stage: str
    key: str
    shard: Shard

    def _file(self, index: int, suffix: str) -> Path:
        name = f"{self.stage.replace(' ', '-')}.{self.key}.{index}-of-{self.shard.count}.{suffix}"
        return self.folder / "parts" / name

    @property
    def growing(self) -> Path:
        """Where this process's part grows; what a killed process left there is gone on with."""
        return self._file(self.shard.index, "partial")

    @property
    def own(self) -> Path:
        """This process's part, whole."""
        return self._file(self.shard.index, "part")

    @property
    def files(self) -> list[Path]:
        """All parts, in the order in which they are merged."""
        return [self._file(index, "part") for index in range(self.shard.count)]

    def missing(self) -> list[int]:
        """Numbers of the shards whose part is not there."""
        return [index for index, path in enumerate(self.files) if not path.is_file()]

    def remove(self) -> None:
        """Delete the stage's parts, for whatever key they were made."""
        for path, name in parts_in(self.folder).items():
            if name.stage == self.stage.replace(" ", "-"):
                path.unlink(missing_ok=True)
