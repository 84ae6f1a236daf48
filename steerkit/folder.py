"""A run folder: who holds it, which recipe made it, which stages are done for which inputs."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from steerkit.errors import SteerkitError
from steerkit.files import disk_error, file_digest, write_json

STATE = "state.json"


class RunFolder:
    """State of a run on disk. Use as a context manager: one process at a time holds a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path / ".lock", timeout=0)
        self._state: dict[str, Any] = {}

    def __enter__(self) -> RunFolder:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout as error:
            raise SteerkitError(
                f"{self.path}: another process is running in this folder; wait for it, or use --out with another one"
            ) from error
        except OSError as error:
            raise disk_error(self.path, error) from error
        self._state = self._read_state()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def claim(self, recipe: dict[str, Any], update: bool) -> None:
        """Make the folder this recipe's.

        Raises:
            SteerkitError: it holds another recipe's run, and `update` was not asked for.
        """
        before = self._state.get("recipe")
        if before is not None and before != recipe and not update:
            different = _differences(before, recipe)
            raise SteerkitError(
                f"{self.path}: holds the run of another recipe ({len(different)} settings differ: "
                f"{'; '.join(different[:4])}{' ...' if len(different) > 4 else ''}). Choose another folder with --out, "
                "or give --update to redo here what these settings change (the rest is kept)"
            )
        if before != recipe:
            self._state["recipe"] = recipe
            self._save()

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

    def finish(self, stage: str, key: str, files: Sequence[str], seconds: float, *, sealed: bool = True) -> None:
        """Record that a stage is done and what its files are.

        Args:
            sealed: whether the files must stay as they are; a report may be built again at any time.
        """
        digests = {name: file_digest(self.path / name) if sealed else None for name in files}
        stages = self._state.setdefault("stages", {})
        stages[stage] = {
            "key": key,
            "files": digests,
            "seconds": round(seconds, 2),
            "at": time.strftime("%FT%TZ", time.gmtime()),
        }
        self._save()

    def seconds(self) -> dict[str, float]:
        """Seconds that each finished stage took."""
        return {name: record["seconds"] for name, record in self._state.get("stages", {}).items()}

    def _read_state(self) -> dict[str, Any]:
        path = self.path / STATE
        if not path.is_file():
            return {}
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise SteerkitError(f"{path}: is damaged ({error}); delete it: stages are then done again") from error

    def _save(self) -> None:
        write_json(self.path / STATE, self._state)


def _differences(before: Any, after: Any, name: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [*before, *(key for key in after if key not in before)]
        return [d for key in keys for d in _differences(before.get(key), after.get(key), f"{name}.{key}".lstrip("."))]
    return [] if before == after else [f"{name} is {_short(after)} and was {_short(before)}"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
