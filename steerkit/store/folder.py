"""A run folder: who holds it, which recipe made it, which steps are done for which inputs."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from steerkit.errors import SteerkitError
from steerkit.store.bounded_yaml import load
from steerkit.store.files import disk_error, file_digest, read_sealed, write_json, write_sealed
from steerkit.store.identity import Identity, changes
from steerkit.store.identity import made_of as versions_of

STATE = "state.json"
HOLDER = ".holder.json"  # who has the folder's lock; stale when it is free


class RunFolder:
    """State of a run on disk. Used as a context manager, it is held by this process alone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path / ".lock")
        self._state: dict[str, Any] = {}

    def __enter__(self) -> RunFolder:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
            _say_who(self.path / HOLDER)
        except Timeout as error:
            raise SteerkitError(
                f"{self.path}: another process is running in this folder ({_who(self.path / HOLDER)}); wait for it, or "
                "use --out with another one"
            ) from error
        except OSError as error:
            self._lock.release()
            raise disk_error(self.path, error) from error
        try:
            self._state = read_state(self.path)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock.is_locked:
            with suppress(OSError):
                (self.path / HOLDER).unlink()
        self._lock.release()

    def look(self) -> None:
        """Read what is done here, without holding the folder: for questions alone."""
        self._state = read_state(self.path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def claim(self, recipe: dict[str, Any], update: bool, made_of: Collection[Identity] = ()) -> None:
        """Make the folder this recipe's, with its plugins' code and its files as they are.

        Raises:
            SteerkitError: it holds another recipe's run, or a finished step was made by other code or of other files,
                and `update` was not asked for.
        """
        before, known = self._state.get("recipe"), versions_of(made_of)
        different = differences(before, recipe) if before is not None else []
        # What `update` has taken over once is no surprise when that run was stopped and goes on.
        changed = self._changed(made_of) if self._state.get("made_of") != known else {}
        if (different or changed) and not update:
            said = [f"{what} since {_were_done(steps)} here" for what, steps in changed.items()]
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
        """What has changed since finished steps were made of it, in words → these steps."""
        found: dict[str, list[str]] = {}
        for step in self.finished():
            for what in self.changed(step, now):
                found.setdefault(what, []).append(step)
        return found

    def changed(self, step: str, now: Collection[Identity]) -> list[str]:
        """What has changed since a finished step was made of it, in words; nothing for one that isn't finished."""
        before = self.finished().get(step, {}).get("made_of", {})
        found = (what for each in now if each.title in before for what in changes(before[each.title], each))
        return list(dict.fromkeys(found))  # several steps may use one plugin

    def is_done(self, step: str, key: str) -> bool:
        """Whether a step ended for these inputs and its files are as it left them."""
        record = self._state.get("steps", {}).get(step)
        if record is None or record["key"] != key:
            return False
        for name, digest in record["files"].items():
            path = self.path / name
            if not path.is_file():
                return False
            if digest is not None and file_digest(path) != digest:
                raise SteerkitError(
                    f"{path}: was changed after step {step!r} wrote it; delete it to have it made again "
                    "(or put the original back)"
                )
        return True

    def finish(
        self,
        step: str,
        key: str,
        files: Sequence[str],
        seconds: float,
        *,
        sealed: bool = True,
        made_of: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        """Record that a step is done and what its files are.

        Args:
            made_of: title → file or distribution → digest or version, of what it depends on besides the settings.
            sealed: whether the files must stay as they are; a report may be built again at any time.
        """
        digests = {name: file_digest(self.path / name) if sealed else None for name in files}
        self._state.setdefault("steps", {})[step] = {
            "key": key,
            "files": digests,
            "seconds": round(seconds, 2),
            "at": time.strftime("%FT%TZ", time.gmtime()),
            "made_of": made_of or {},
        }
        self._save()

    def finished(self) -> dict[str, dict[str, Any]]:
        """Steps that are done, each with its key and its files' digests."""
        return dict(self._state.get("steps", {}))

    def seconds(self) -> dict[str, float]:
        """Seconds that each finished step took."""
        return {name: record["seconds"] for name, record in self._state.get("steps", {}).items()}

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


def read_recipe(path: Path) -> dict[str, Any]:
    """The recipe that a run was made by. Raises: SteerkitError when it isn't there, or is none."""
    file = path / "recipe.yaml"
    if not file.is_file():
        raise SteerkitError(f"{path}: no run there (no recipe.yaml); give the folder that `recipe run` printed")
    recipe = load(file)
    if not isinstance(recipe, dict):
        raise SteerkitError(f"{file}: is not a recipe: a recipe is a mapping of keys to values")
    return recipe


def read_state(path: Path) -> dict[str, Any]:
    """What a run folder says of its run; nothing where none is.

    Raises:
        SteerkitError: it is damaged.
    """
    path = path / STATE
    if not path.is_file():
        return {}
    cure = "delete it: steps are then done again"
    try:
        return check_state(read_sealed(path, cure))
    except ValueError as error:
        raise SteerkitError(f"{path}: is damaged ({error}); {cure}") from error


def check_state(state: Any) -> dict[str, Any]:
    """The state of a run folder, as it may be a stranger's. Raises: ValueError for other types, or files elsewhere."""
    try:
        for record in state.get("steps", {}).values():
            names = {"key": record["key"], **record["files"]}
            if not all(isinstance(v, str | None) for v in names.values()) or not 0 <= record["seconds"] < 1e12:
                raise ValueError("a step's record is of other types")
            outside = [name for name in record["files"] if Path(name).is_absolute() or ".." in Path(name).parts]
            if outside:
                raise ValueError(f"{outside[0]!r} is not in the folder")
        for versions in [state.get("made_of", {}), *(r.get("made_of", {}) for r in state.get("steps", {}).values())]:
            if not all(isinstance(v, str) for title, own in versions.items() for v in (title, *own, *own.values())):
                raise ValueError("what a step was made of is of other types")
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


def _were_done(steps: Sequence[str]) -> str:
    one = len(steps) == 1
    return f"step{'' if one else 's'} {', '.join(steps)} {'was' if one else 'were'} done"


def _few(texts: Sequence[str]) -> str:
    return "; ".join([*texts[:4], *(["..."] if len(texts) > 4 else [])]).replace("; ...", " ...")


def _short(value: Any) -> str:
    return _cut(json.dumps(value, ensure_ascii=False), 60)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
