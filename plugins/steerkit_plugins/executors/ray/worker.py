"""What runs in a worker's process: it holds the models, and does one piece after the other.

Everything goes in and out as bytes that are pickled and unpickled here, and errors are caught here: what Ray itself
raises then means that a worker was lost.
"""

from __future__ import annotations

import logging
import os
import pickle
import platform
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from steerkit.code.sent_modules import Package, add_package
from steerkit.code.source_files import source_digest
from steerkit.errors import SteerkitError
from steerkit.interfaces import Plugin
from steerkit.store.files import digest

PACKAGES = ("torch", "transformers", "numpy")
SOURCES = ("steerkit", "steerkit_plugins")


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a worker is told before its first piece.

    Attributes:
        folder: current folder of the started process; relative paths mean the same where the worker has it too.
        path: where the started process imports from.
        packages: folders of local plugin files, by package.
        plugins: pickled (kind, name, class) of plugins that a notebook or a script defines.
        models: pickled `Models`.
        threads: CPU threads.
        environment: variables that are set before anything else is imported.
        versions: of what results depend on; the worker's must be the same.
    """

    folder: str
    path: tuple[str, ...]
    packages: Mapping[str, Package]
    plugins: bytes
    models: bytes
    threads: int
    environment: Mapping[str, str]
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Outcome:
    """What became of a piece.

    Attributes:
        result: of the work.
        failed: in place of a result.
        host: name of the machine.
        logged: (logger, level, message) of steerkit's warnings.
    """

    result: Any = None
    failed: Failed | None = None
    host: str = ""
    logged: tuple[tuple[str, int, str], ...] = ()


@dataclass(frozen=True)
class Failed:
    """An exception. Its class may have any constructor, so that it is made again without."""

    kind: type[Exception]
    args: tuple[Any, ...]
    state: Mapping[str, Any]
    trace: str

    def error(self, where: str) -> Exception:
        """The exception, which says where it was raised."""
        made: Exception = self.kind.__new__(self.kind, *self.args)
        made.args = self.args
        made.__dict__.update(self.state)
        if isinstance(made, SteerkitError):
            made.args = (f"{made}\n  ({where})",)
        else:
            made.add_note(f"{where}:\n{self.trace}")
        return made


class Worker:
    """A Ray actor's class."""

    def __init__(self) -> None:
        self._models: Any = None
        self._given = b""
        self._work: Callable[[Any, Any], Any] = lambda models, piece: None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def start(self, setup: bytes) -> bytes:
        """Make ready: plugins, threads, the models (which are loaded when first used)."""
        return _outcome(lambda: self._start(pickle.loads(setup)))

    def _start(self, setup: Setup) -> int:
        os.environ.update(setup.environment)
        if Path(setup.folder).is_dir():
            os.chdir(setup.folder)
        sys.path += [folder for folder in setup.path if folder not in sys.path and Path(folder).is_dir()]
        if different := differing(setup.versions, versions()):
            raise SteerkitError(f"the worker has other versions than the started process: {different}")
        import torch

        from steerkit import registry

        torch.set_num_threads(setup.threads)
        for name, package in setup.packages.items():
            add_package(name, package, self._spare)
        registry.hold(_unpickled(setup.plugins, "a plugin"))
        self._models = pickle.loads(setup.models)
        return os.getpid()

    def _spare(self) -> Path:
        """A folder for files that this machine lacks."""
        self._folder = self._folder or tempfile.TemporaryDirectory()
        return Path(self._folder.name)

    def do(self, work: bytes, name: str, piece: bytes) -> bytes:
        """The result of a piece.

        Args:
            work: pickled; the same bytes are unpickled once.
            name: of the plugin whose method it is.
        """
        return _outcome(lambda: self._do(work, name, piece))

    def _do(self, work: bytes, name: str, piece: bytes) -> Any:
        if work != self._given:
            self._work, self._given = _unpickled(work, "the step"), work
            owner = getattr(self._work, "__self__", None)
            if isinstance(owner, Plugin) and not type(owner).name:
                type(owner).name = name
        return self._work(self._models, _unpickled(piece, "the piece"))

    def close(self) -> None:
        """Close what was started on the models (engines with processes of their own)."""
        if self._models is not None:
            self._models.close()
        if self._folder is not None:
            self._folder.cleanup()


def _unpickled(data: bytes, what: str) -> Any:
    try:
        return pickle.loads(data)
    except Exception as error:
        raise SteerkitError(
            f"{what} can't be had in another process ({type(error).__name__}: {error}); its code must be installed "
            "there, or be a local file that is named under `plugins`"
        ) from error


def _outcome(work: Callable[[], Any]) -> bytes:
    """Do it; pickled, whatever comes of it."""
    from ray import cloudpickle

    heard = _Heard()
    host = socket.gethostname()
    logging.getLogger("steerkit").addHandler(heard)
    try:
        result = work()
        try:
            return bytes(cloudpickle.dumps(Outcome(result, None, host, tuple(heard.lines))))
        except Exception as error:
            raise SteerkitError(
                f"its result can't be pickled ({type(error).__name__}: {error}); work() must return plain data"
            ) from error
    except Exception as error:
        return bytes(cloudpickle.dumps(Outcome(None, _failed(error), host, tuple(heard.lines))))
    finally:
        logging.getLogger("steerkit").removeHandler(heard)


def _failed(error: Exception) -> Failed:
    """An error that can be sent: itself, or in words where it holds what can't be."""
    from ray import cloudpickle

    trace = "".join(traceback.format_exception(error))
    found = Failed(type(error), error.args, dict(error.__dict__), trace)
    try:
        pickle.loads(cloudpickle.dumps(found)).error("")
    except Exception:
        words = str(error) if isinstance(error, SteerkitError) else f"{type(error).__name__}: {error}"
        return Failed(SteerkitError, (words,), {}, trace)
    return found


@dataclass
class _Heard(logging.Handler):
    """Keeps what is logged."""

    lines: list[tuple[str, int, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(logging.WARNING)

    def __hash__(self) -> int:
        return id(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.name, record.levelno, record.getMessage()))


@cache
def versions() -> Mapping[str, str]:
    """Versions of what results depend on, steerkit's own by its source."""
    found = {"Python": ".".join(platform.python_version_tuple()[:2])}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    for name in SOURCES:
        spec = find_spec(name)
        files = [
            path for root in (spec.submodule_search_locations or () if spec else ()) for path in _files(Path(root))
        ]
        found[name] = digest([[path.name, source_digest(path)] for path in files])
    return found


def _files(root: Path) -> list[Path]:
    return sorted(root.rglob("*.py"))


def differing(ours: Mapping[str, str], theirs: Mapping[str, str]) -> str:
    """In words, what two processes have different versions of; empty when nothing."""
    return ", ".join(
        f"{name} {theirs.get(name)} (here {value})" for name, value in ours.items() if theirs.get(name) != value
    )
