"""Shards without a common disk work in folders of their own: one folder takes over what another has."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from steerkit.errors import InputError, Problem, SteerkitError
from steerkit.shards import PartName, parts_in
from steerkit.store.files import atomic, file_digest
from steerkit.store.folder import STATE, RunFolder, differences, read_state

GROWING = ("log.jsonl", "judges/**/*.jsonl", "sources/**/*.jsonl")  # logs and answers: each line stands for itself
SET_ONCE = ("plans/*.json", "stats/*/*/*.safetensors")  # raw windows are named by their stage's key and their traces


def take_over(folder: RunFolder, other: Path) -> None:
    """Copy finished stages and parts of the same run from another folder; what is here stays as it is.

    Args:
        folder: held, and claimed by its recipe.

    Raises:
        SteerkitError: there is no run in `other`, or it is another recipe's, or was made from other inputs or for
            another number of shards; nothing is copied then.
    """
    theirs = read_state(other)
    if "recipe" not in theirs:
        raise SteerkitError(f"{other}: no run to merge: there is no {STATE}; name the --out of another shard")
    problems = list(_problems(folder, other))
    if problems:
        raise InputError(f"{other}: can't be merged into {folder.path}", problems)
    finished = folder.finished()
    for stage, record in theirs.get("stages", {}).items():
        if stage not in finished:
            for name in record["files"]:
                _copy(other / name, folder / name)
    for path in parts_in(other):
        if path.suffix == ".part" and not (folder / "parts" / path.name).exists():
            _copy(path, folder / "parts" / path.name)
    for pattern in SET_ONCE:
        for path in other.glob(pattern):
            if not (folder.path / path.relative_to(other)).exists():
                _copy(path, folder.path / path.relative_to(other))
    for pattern in GROWING:
        for path in other.glob(pattern):
            _add_lines(path, folder.path / path.relative_to(other))
    folder.adopt(theirs.get("stages", {}))


def _problems(folder: RunFolder, other: Path) -> Iterator[Problem]:
    theirs = read_state(other)
    different = differences(folder.recipe, theirs["recipe"])
    if different:
        count = f"{len(different)} settings differ" if len(different) > 1 else "1 setting differs"
        yield Problem("recipe", f"{count} from this run's: {'; '.join(different[:4])}")
        return
    known: dict[str, set[str]] = defaultdict(set)
    for stage, record in folder.finished().items():
        known[stage.replace(" ", "-")].add(record["key"])
    for name in parts_in(folder.path).values():
        known[name.stage].add(name.key)
    made = [
        (PartName(stage.replace(" ", "-"), record["key"], 0, 0, True))
        for stage, record in theirs.get("stages", {}).items()
    ]
    for name in (*made, *parts_in(other).values()):
        if name.count not in (0, folder.shard.count):
            yield Problem("parts", f"of {name.count} shards, and this is one of {folder.shard.count}")
        if known[name.stage] and name.key not in known[name.stage]:
            yield Problem(
                name.stage, "made from other inputs there: other weights, plugins' code, or files that the recipe names"
            )
    for stage, record in theirs.get("stages", {}).items():
        for file, digest in record["files"].items():
            path = other / file
            if not path.is_file() or digest not in (None, file_digest(path)):
                yield Problem(f"{path}", f"is not as stage {stage!r} left it", "copy the folder again")
    for path in other.glob("plans/*.json"):
        mine = folder / f"plans/{path.name}"
        if mine.is_file():
            here, there = (json.loads(p.read_text(encoding="utf-8")) for p in (mine, path))
            if here["key"] == there["key"] and here["chunks"] != there["chunks"]:
                yield Problem(f"{path}", "another plan of batches; delete one folder's parts/ and plans/")


def _add_lines(source: Path, target: Path) -> None:
    """Add the whole lines that the target lacks."""
    before = target.read_bytes() if target.is_file() else b""
    known = set(before.splitlines(keepends=True))
    new = [line for line in source.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    with atomic(target) as temporary:
        temporary.write_bytes(before + b"".join(line for line in new if line not in known))


def _copy(source: Path, target: Path) -> None:
    with atomic(target) as temporary:
        shutil.copyfile(source, temporary)
