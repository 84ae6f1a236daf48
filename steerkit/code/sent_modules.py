"""Local plugin files in another process: sources as they are loaded here, loaded there under the same names."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from steerkit.code.local_modules import SOURCE, find_in, is_local, root_of
from steerkit.code.source_files import imported_files
from steerkit.errors import SteerkitError


@dataclass(frozen=True)
class Package:
    """A folder of local plugin files, to be had in another process.

    Attributes:
        folder: where it is.
        sources: path in the folder → source, of the files that plugins are made of.
        loaded: names of the modules that are loaded, in their order.
    """

    folder: str
    sources: Mapping[str, bytes]
    loaded: tuple[str, ...]


def packages(plugins: Iterable[type]) -> dict[str, Package]:
    """The folders of the local files that plugins are from, by the names of their packages; sources as loaded."""
    found: dict[str, Package] = {}
    wanted = {plugin.__module__.partition(".")[0] for plugin in plugins}
    for name, module in list(sys.modules.items()):
        package, _, inner = name.partition(".")
        if package in wanted and is_local(name) and hasattr(module, SOURCE):
            root, file = root_of(name), Path(str(module.__file__))
            others = {path: path.read_bytes() for path in imported_files(file, root).values() if path.is_file()}
            known = found.get(package, Package(str(root), {}, ()))
            sources = {path.relative_to(root).as_posix(): own for path, own in others.items()}
            sources |= {**known.sources, file.relative_to(root).as_posix(): getattr(module, SOURCE)}
            found[package] = Package(str(root), sources, (*known.loaded, inner))
    return found


def add_package(name: str, package: Package, spare: Callable[[], Path]) -> None:
    """Load the plugin files of a folder as another process has them (`packages`), under the same names.

    Args:
        spare: makes a folder for copies of the files, where they are not on this machine as they are there.

    Raises:
        SteerkitError: a file fails to run.
    """
    root = Path(package.folder)
    if any(not (root / path).is_file() or (root / path).read_bytes() != own for path, own in package.sources.items()):
        root = spare() / name
        for path, source in package.sources.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(source)
    find_in(name, root)
    for module in package.loaded:
        try:
            importlib.import_module(f"{name}.{module}")
        except Exception as error:
            raise SteerkitError(
                f"{Path(package.folder) / module}: the plugin file does not load in another process: "
                f"{type(error).__name__}: {error}"
            ) from error
