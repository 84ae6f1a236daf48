"""A run folder: who holds it, which recipe made it, which stages are done for which inputs."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from steerkit.errors import SteerkitError
from steerkit.identity import Identity, changes
from steerkit.identity import made_of as versions_of
from steerkit.shards import Shard, parts_in
from steerkit.store.files import disk_error, file_digest, read_sealed, write_json, write_sealed

STATE = "state.json"
HOLDER = ".holder.json"  # who has the folder's lock; stale when it is free
PROBE = 2.0  # seconds that a shard's own lock may be held by one that looks whether it runs


class RunFolder:
    """State of a run on disk. Use as a context manager: a folder is held by one process, or by the shards of a run.

    A single process has the folder's lock all the time; shards have a lock each, and the folder's in turns (`held`).
    """

    def __init__(self, path: Path, shard: Shard | None = None) -> None:
        self.path = path
        self.shard = shard or Shard()
        self._lock = FileLock(path / ".lock")
        self._own = FileLock(self._shard_file(self.shard.index, self.shard.count))
        self._state: dict[str, Any] = {}

    def __enter__(self) -> RunFolder:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if self.shard.count > 1:
                self._enter_as_shard()
            else:
                self._enter_alone()
        except OSError as error:
            raise disk_error(self.path, error) from error
        try:
            with self.held():
                pass
            self._check_counts()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.shard.count == 1 and self._lock.is_locked:
            with suppress(OSError):
                (self.path / HOLDER).unlink()
        self._own.release()
        self._lock.release()

    def _shard_file(self, index: int, count: int) -> Path:
        return self.path / f".shards/{index}-of-{count}.lock"

    def _enter_alone(self) -> None:
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise self._busy() from error
        if self.running():
            self._lock.release()
            raise self._busy()
        _say_who(self.path / HOLDER)

    def _enter_as_shard(self) -> None:
        path = Path(self._own.lock_file)
        path.parent.mkdir(exist_ok=True)
        try:
            self._own.acquire(timeout=PROBE)  # others look whether it is free, for a moment
        except Timeout as error:
            who = _who(path.with_suffix(".json"))
            raise SteerkitError(
                f"{self.path}: shard {self.shard} is running here already ({who}); give each process a number "
                "of its own, or this one another folder with --out"
            ) from error
        _say_who(path.with_suffix(".json"))

    def _busy(self) -> SteerkitError:
        shards = self.running()
        who = f"shard {', '.join(sorted(shards))} of a run" if shards else "another process"
        which = "; ".join(shards[name] for name in sorted(shards)) if shards else _who(self.path / HOLDER)
        return SteerkitError(
            f"{self.path}: {who} is running in this folder ({which}); wait for it, or use --out with another one"
        )

    def running(self) -> dict[str, str]:
        """Other shards that have a process now: ``i/n`` → which."""
        found = {}
        for path in (self.path / ".shards").glob("*-of-*.lock"):
            lock = FileLock(path)
            if path == Path(self._own.lock_file):
                continue
            try:
                lock.acquire(timeout=0)
                lock.release()
            except Timeout:
                found[path.stem.replace("-of-", "/")] = _who(path.with_suffix(".json"))
        return found

    def _check_counts(self) -> None:
        """Raises: SteerkitError when the folder's parts, or other shards in it, are of another number of shards."""
        counts = {name.count: f"parts/ holds parts of {name.count}" for name in parts_in(self.path).values()}
        counts |= {int(n): f"{n} are running here" for n in (name.split("/")[1] for name in self.running())}
        counts.pop(self.shard.count, None)
        for count, found in counts.items():
            raise SteerkitError(
                f"{self.path}: this is one of {self.shard.count} shards, but {found}; go on with "
                f"{f'--shard i/{count}' if count > 1 else 'a single process'}, or delete {self.path / 'parts'} to do "
                "what is not finished anew"
            )

    @contextmanager
    def held(self, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
        """The folder for this process alone, with the state as others left it.

        Args:
            on_wait: called about once a second while another shard has the folder.

        Raises:
            SteerkitError: a process that is no shard runs in the folder.
        """
        alone = 0
        while alone < 2:  # a shard may end between the two looks
            try:
                self._lock.acquire(timeout=1, poll_interval=0.1)
                break
            except Timeout:
                alone = 0 if self.running() else alone + 1
                on_wait()
        else:
            raise self._busy()
        try:
            self._state = read_state(self.path)
            yield
        finally:
            self._lock.release()

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def claim(self, recipe: dict[str, Any], update: bool, made_of: Collection[Identity] = ()) -> None:
        """Make the folder this recipe's, with its plugins' code and its files as they are.

        Raises:
            SteerkitError: it holds another recipe's run, or a finished stage was made by other code or of other files,
                and `update` was not asked for.
        """
        before, known = self._state.get("recipe"), versions_of(made_of)
        different = differences(before, recipe) if before is not None else []
        # What `update` has taken over once is no surprise when that run was stopped and goes on.
        changed = self._changed(made_of) if self._state.get("made_of") != known else {}
        if (different or changed) and not update:
            said = [f"{what} since {_were_done(stages)} here" for what, stages in changed.items()]
            if different:
                said = [f"holds the run of another recipe ({len(different)} settings differ: {_few(different)})", *said]
            raise SteerkitError(
                f"{self.path}: {'; '.join(said)}. Choose another folder with --out, or give --update to redo here what "
                f"{'these settings change' if different else 'depends on that'} (the rest is kept)"
            )
        if before is None or different or self._state.get("made_of") != known:
            self._state |= {"recipe": recipe, "made_of": known}
            self._save()

    def _changed(self, now: Collection[Identity]) -> dict[str, list[str]]:
        """What has changed since finished stages were made of it, in words → these stages."""
        found: dict[str, list[str]] = {}
        for stage in self.finished():
            for what in self.changed(stage, now):
                found.setdefault(what, []).append(stage)
        return found

    def changed(self, stage: str, now: Collection[Identity]) -> list[str]:
        """What has changed since a finished stage was made of it, in words; nothing for one that isn't finished."""
        before = self.finished().get(stage, {}).get("made_of", {})
        return [what for each in now if each.title in before for what in changes(before[each.title], each)]

    def is_done(self, stage: str, key: str) -> bool:
        """Whether a stage ended for these inputs and its files are as it left them."""
        record = self._state.get("stages", {}).get(stage)
        if record is None or record["key"] != key:
            return False
        for name, digest in record["files"].items():
            path = self.path / name
            if not path.is_file():
                return False
            if digest is not None and file_digest(path) != digest:
                raise SteerkitError(
                    f"{path}: was changed after stage {stage!r} wrote it; delete it to have it made again "
                    "(or put the original back)"
                )
        return True

    def finish(
        self,
        stage: str,
        key: str,
        files: Sequence[str],
        seconds: float,
        *,
        sealed: bool | Collection[str] = True,
        made_of: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        """Record that a stage is done and what its files are. A stage that had sealed one of them otherwise is no more.

        Args:
            made_of: title → file or distribution → digest or version, of what it depends on besides the settings.
            sealed: whether the files must stay as they are, or which; a report may be built again at any time.
        """
        fixed = sealed if not isinstance(sealed, bool) else files if sealed else ()
        digests = {name: file_digest(self.path / name) if name in fixed else None for name in files}
        stages = self._state.setdefault("stages", {})
        for name in files:
            sealed_by = [other for other, record in stages.items() if record["files"].get(name) and other != stage]
            now = file_digest(self.path / name) if sealed_by else None
            for other in sealed_by:
                if stages[other]["files"][name] != now:
                    del stages[other]
        stages[stage] = {
            "key": key,
            "files": digests,
            "seconds": round(seconds, 2),
            "at": time.strftime("%FT%TZ", time.gmtime()),
            "made_of": made_of or {},
        }
        self._save()

    @property
    def recipe(self) -> dict[str, Any]:
        """The settings of the run that it is claimed for."""
        return dict(self._state["recipe"])

    def finished(self) -> dict[str, dict[str, Any]]:
        """Stages that are done, each with its key and its files' digests."""
        return dict(self._state.get("stages", {}))

    def adopt(self, stages: Mapping[str, dict[str, Any]]) -> None:
        """Take stages as done whose files came from another folder; those that are done here stay."""
        self._state["stages"] = {**stages, **self.finished()}
        self._save()

    def seconds(self) -> dict[str, float]:
        """Seconds that each finished stage took."""
        return {name: record["seconds"] for name, record in self._state.get("stages", {}).items()}

    def _save(self) -> None:
        write_sealed(self.path / STATE, self._state)


def _say_who(path: Path) -> None:
    """Write down who this is, for `_who`."""
    who = {"pid": os.getpid(), "host": platform.node(), "since": time.strftime("%F %T UTC", time.gmtime())}
    write_json(path, {**who, "command": shlex.join(sys.argv)})


def _who(path: Path) -> str:
    """The process that has a lock, in words."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        who = f"process {found['pid']} on {found['host']} since {found['since']}"
        return f"{who}: {_cut(str(found['command']), 200)}"
    except (OSError, ValueError, KeyError, TypeError):
        return "a process that has just begun"


def read_state(path: Path) -> dict[str, Any]:
    """What a run folder says of its run; nothing where none is.

    Raises:
        SteerkitError: it is damaged.
    """
    path = path / STATE
    if not path.is_file():
        return {}
    cure = "delete it: stages are then done again"
    try:
        return check_state(read_sealed(path, cure))
    except ValueError as error:
        raise SteerkitError(f"{path}: is damaged ({error}); {cure}") from error


def check_state(state: Any) -> dict[str, Any]:
    """The state of a run folder, as it may be a stranger's. Raises: ValueError for other types, or files elsewhere."""
    try:
        for record in state.get("stages", {}).values():
            names = {"key": record["key"], **record["files"]}
            if not all(isinstance(v, str | None) for v in names.values()) or not 0 <= record["seconds"] < 1e12:
                raise ValueError("a stage's record is of other types")
            outside = [name for name in record["files"] if Path(name).is_absolute() or ".." in Path(name).parts]
            if outside:
                raise ValueError(f"{outside[0]!r} is not in the folder")
        for versions in [state.get("made_of", {}), *(r.get("made_of", {}) for r in state.get("stages", {}).values())]:
            if not all(isinstance(v, str) for title, own in versions.items() for v in (title, *own, *own.values())):
                raise ValueError("what a stage was made of is of other types")
        return dict(state)
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"not the state of a run: {error}") from error


def differences(before: Any, after: Any, name: str = "") -> list[str]:
    """Settings that differ, each in words."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [*before, *(key for key in after if key not in before)]
        found = [d for key in keys for d in differences(before.get(key), after.get(key), f"{name}.{key}".lstrip("."))]
        return found or ([f"{name} is in another order"] if list(before) != list(after) else [])
    return [] if before == after else [f"{name} is {_short(after)} and was {_short(before)}"]


def _were_done(stages: Sequence[str]) -> str:
    one = len(stages) == 1
    return f"stage{'' if one else 's'} {', '.join(stages)} {'was' if one else 'were'} done"


def _few(texts: Sequence[str]) -> str:
    return "; ".join([*texts[:4], *(["..."] if len(texts) > 4 else [])]).replace("; ...", " ...")


def _short(value: Any) -> str:
    return _cut(json.dumps(value, ensure_ascii=False), 60)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
