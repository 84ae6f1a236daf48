"""Plugins by kind and name. Entry points are read without importing anything; a plugin loads when named."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from steerkit.artifacts import PluginSpec
from steerkit.errors import InputError, Problem, SteerkitError, nearest

KINDS = (
    "steps",
    "experiments",
    "extractors",
    "fitters",
    "steerers",
    "judges",
    "engines",
    "executors",
    "models",
    "prompts",
    "adapters",
    "objectives",
)
GROUP = "steerkit.{kind}"
LOCAL = "(local)"  # in place of a distribution

T = TypeVar("T", bound=type)


@dataclass(frozen=True, slots=True)
class Entry:
    """One known plugin: where it comes from, and how to get its class."""

    kind: str
    name: str
    module: str
    load: Callable[[], type]
    distribution: str
    version: str


_local: dict[tuple[str, str], Entry] = {}


def register(kind: str, name: str) -> Callable[[T], T]:
    """Class decorator for a plugin in a local file (`plugins: [./mine.py]`) or a notebook.

    Raises:
        SteerkitError: the kind is unknown, or the name is taken (both modules are named).
    """
    if kind not in KINDS:
        raise SteerkitError(f"register({kind!r}, {name!r}): no such kind of plugin; {nearest(kind, KINDS)}")

    def add(cls: T) -> T:
        from steerkit.code.plugin_code import local_code

        module = getattr(sys.modules.get(cls.__module__), "__file__", None) or cls.__module__
        for other in entries(kind).get(name, ()):
            if other.distribution != LOCAL and other.module.partition(":")[0] == cls.__module__:  # by its entry point
                return cls
            if other.module != str(module):
                raise _duplicate(kind, name, [other.module, str(module)])
        cls.name, cls.code = name, local_code(cls)  # type: ignore[attr-defined]
        _know(kind, name, cls, str(module))
        return cls

    return add


def load_file(path: Path) -> None:
    """Run a local plugin file so that its `@register` decorators take effect; again when it or a helper has changed.

    A helper is what it imports from its own folder.

    Raises:
        SteerkitError: the file is missing, fails to run, or registers nothing.
    """
    from steerkit.code.local_modules import forget, run, used_by
    from steerkit.code.plugin_code import local_code

    path = path.resolve()
    if not path.is_file():
        raise SteerkitError(f"{path}: no such plugin file; paths are relative to the recipe's folder")
    if path.suffix != ".py":
        raise SteerkitError(f"{path}: not a Python file")
    known = {str(used.file) for used in (used_by(path) or {}).values()}
    if any(entry.module in known for entry in _local.values()):
        return
    before = dict(_local)
    for key in [key for key, entry in _local.items() if entry.module == str(path)]:
        del _local[key]  # as it was before an edit
    try:
        files = {str(used.file) for used in run(path).values()}
        own = [entry.load() for entry in _local.values() if entry.module in files]
        if not own:
            raise SteerkitError(f"{path}: registers no plugin; decorate a class with @steerkit.register(kind, name)")
    except Exception as error:
        forget(path)  # so that a mended file can be loaded again
        _local.clear()
        _local.update(before)
        if isinstance(error, SteerkitError):
            raise
        line = _line_in(error, path)
        raise SteerkitError(f"{path}{line}: the plugin file failed: {type(error).__name__}: {error}") from error
    for cls in own:
        cls.code = local_code(cls)  # type: ignore[attr-defined]


def _line_in(error: BaseException, path: Path) -> str:
    lines = []
    trace = error.__traceback__
    while trace:
        if Path(trace.tb_frame.f_code.co_filename) == path:
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.lineno and error.filename == str(path):
        lines.append(error.lineno)
    return f":{lines[-1]}" if lines else ""


def local_plugins() -> list[tuple[str, str, type[Any]]]:
    """(kind, name, class) of the plugins that local files and notebooks have registered."""
    return [(entry.kind, entry.name, entry.load()) for entry in _local.values()]


def hold(plugins: Iterable[tuple[str, str, type[Any]]]) -> None:
    """Know plugins that another process has registered (its `local_plugins`)."""
    for kind, name, cls in plugins:
        _know(kind, name, cls, cls.__module__)


def _know(kind: str, name: str, cls: type[Any], module: str) -> None:
    _local[kind, name] = Entry(kind, name, module, lambda: cls, LOCAL, "")


def entries(kind: str) -> dict[str, list[Entry]]:
    """Every known plugin of a kind by name, nothing imported. Two entries of one name are a conflict."""
    found: dict[str, list[Entry]] = {}
    for entry in (*_installed(kind, tuple(map(_changed, sys.path))), *_local.values()):
        if entry.kind == kind:
            found.setdefault(entry.name, []).append(entry)
    return found


@lru_cache(maxsize=2 * len(KINDS))
def _installed(kind: str, path: tuple[tuple[str, float], ...]) -> tuple[Entry, ...]:
    """A kind's entry points; reading every distribution's files takes long, so that it is done once a `path`."""
    found: dict[tuple[str, str], Entry] = {}
    for point in importlib.metadata.entry_points(group=GROUP.format(kind=kind)):
        name, version = (point.dist.name, point.dist.version) if point.dist else ("?", "?")
        # An editable install can list the same entry twice (two copies of its metadata on the path).
        found.setdefault((point.name, point.value), Entry(kind, point.name, point.value, point.load, name, version))
    return tuple(found.values())


def _changed(folder: str) -> tuple[str, float]:
    """A folder of the import path, and when something was installed there or removed last."""
    try:
        return folder, os.stat(folder or ".").st_mtime  # noqa: PTH116 (thousands of times a run; a Path takes longer)
    except (OSError, ValueError):
        return folder, 0.0


def get(kind: str, name: str) -> type[Any]:
    """The plugin class of this kind and name.

    Raises:
        SteerkitError: unknown (with the nearest name, and why others failed to load), doubly defined, or broken.
    """
    if kind not in KINDS:
        raise SteerkitError(f"no kind of plugin is called {kind!r}; {nearest(kind, KINDS)}")
    known = entries(kind)
    if name not in known:
        broken = "".join(f"\n  {text}" for text in failures(kind))
        note = f"\nPlugins of this kind that failed to load:{broken}" if broken else ""
        raise SteerkitError(f"no {kind[:-1]} is called {name!r}; {nearest(name, list(known))}{note}")
    rows = known[name]
    if len(rows) > 1:
        raise _duplicate(kind, name, [row.module for row in rows])
    try:
        cls: type[Any] = rows[0].load()
    except Exception as error:
        raise SteerkitError(_failure(rows[0], error)) from error
    if not cls.__dict__.get("name"):
        cls.name = name
    if "code" not in cls.__dict__:
        from steerkit.code.plugin_code import installed_code

        cls.code = installed_code(cls, rows[0].distribution, rows[0].version)
    return cls


def build(kind: str, spec: PluginSpec) -> Any:
    """The plugin that a spec names, built from its options.

    Raises:
        SteerkitError: no such plugin, or options that don't fit it.
    """
    from pydantic import ValidationError

    cls = get(kind, spec.name)
    try:
        return cls(**spec.options)
    except ValidationError as error:
        problems = [Problem(".".join(map(str, e["loc"])) or spec.name, e["msg"]) for e in error.errors()]
        raise InputError(f"options of {kind[:-1]} {spec.name!r}", problems) from error


def without_defaults(kind: str, spec: PluginSpec | str) -> PluginSpec:
    """The same plugin, named with those of its options alone that aren't its defaults: equal ones are equal then."""
    spec = PluginSpec.model_validate(spec)
    options = build(kind, spec).config.model_dump(mode="json", exclude_defaults=True)
    return PluginSpec(name=spec.name, **options)


def failures(kind: str) -> list[str]:
    """Why plugins of a kind don't load, a line each; empty when all do. Loads every one of them."""
    found = []
    for rows in entries(kind).values():
        for entry in rows:
            try:
                entry.load()
            except Exception as error:
                found.append(_failure(entry, error))
    return found


def versions(kind: str, name: str) -> str:
    """`distribution version` of a plugin, for provenance."""
    return next((f"{row.distribution} {row.version}".strip() for row in entries(kind).get(name, ())), "unknown")


def _failure(entry: Entry, error: BaseException) -> str:
    origin = f"{entry.module} of {entry.distribution} {entry.version}".strip()
    return f"{entry.kind[:-1]} {entry.name!r} ({origin}) does not load: {type(error).__name__}: {error}"


def _duplicate(kind: str, name: str, modules: list[str]) -> SteerkitError:
    return SteerkitError(
        f"two {kind} are called {name!r}: {' and '.join(modules)}; rename one, or uninstall the package it comes from"
    )
