"""What a plugin's code is: the source of a local file with its helpers, or an installed distribution's version."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

from steerkit.code.source_files import SHARED, imported_files, is_installed, module_name, source_digest
from steerkit.interfaces import Config, Plugin
from steerkit.store.files import digest

OWN = "steerkit-hf"
"""The distribution that the built-in plugins come with. An upgrade keeps what was made by those that it left alone."""


CORE = __name__.partition(".")[0]


@dataclass(frozen=True)
class Code:
    """What a plugin is made of.

    Attributes:
        name: its file or distribution, for people.
        versions: file or distribution → digest or version. The plugin's own is ``""``: a file may have any name.
    """

    name: str
    versions: Mapping[str, str]


def installed_code(cls: type, name: str, version: str) -> Code:
    """Code of an entry point's plugin: its distribution's version.

    The source counts too where the version doesn't tell it: editable and local installs, and steerkit's own plugins.
    Steps of the core have none here: the release is part of every key.
    """
    if cls.__module__.partition(".")[0] == CORE:
        return Code(cls.__module__, {"": OWN})
    file = _file(cls.__module__)
    source = {"source": _digest_of(files_of(cls.__module__))} if file else {}
    if name == OWN:
        return Code(cls.__module__, {"": source.get("source", version), **_bases(cls)})
    if file and _is_released(name, file):
        source = {}
    return Code(name, {"": version, **source, **_bases(cls)})


def local_code(cls: type) -> Code | None:
    """Code of a plugin that a file registered: the source files that it is made of; None in a notebook."""
    file = _file(cls.__module__)
    if file is None:
        return None
    files = files_of(cls.__module__)
    own = {"" if other == file else _shown(name, other): source_digest(other) for name, other in files.items()}
    return Code(file.name, {**own, **_bases(cls)})


def _shown(name: str, file: Path) -> str:
    return name.replace(".", "/") + ("/__init__.py" if file.name == "__init__.py" else ".py")


def files_of(module: str) -> dict[str, Path]:
    """Dotted name → source file, of an imported module and of what it imports from its own package or folder."""
    from steerkit.code.local_modules import is_local, local_files

    if is_local(module):
        return local_files(module)
    file = _file(module)
    if file is None:
        return {}
    depth = module.count(".") + (file.name == "__init__.py") if module != "__main__" else 0
    root = file.parents[depth]
    only = is_installed(root) or module.partition(".")[0] in SHARED
    return imported_files(file, root, module_name(file, root).partition(".")[0] if only else "")


def _bases(cls: type) -> dict[str, str]:
    """The code of plugins and configs of other packages that a class is derived from."""
    classes = (*cls.__mro__, *getattr(cls, "Config", Config).__mro__)
    modules = dict.fromkeys(c.__module__ for c in classes if issubclass(c, Plugin | Config))
    own = {name.partition(".")[0] for name in (cls.__module__, "steerkit")}
    return {name: _base(name) for name in modules if name.partition(".")[0] not in own and _file(name)}


def _base(module: str) -> str:
    top, file = module.partition(".")[0], _file(module)
    found = _distributions().get(top, [])
    if file and found and OWN not in found and _is_released(found[0], file):
        return f"{found[0]} {distribution(found[0]).version}"
    return _digest_of(files_of(module))


def _digest_of(files: Mapping[str, Path]) -> str:
    return f"sha256:{digest([[name, source_digest(file)] for name, file in files.items()])}"


@cache
def _distributions() -> Mapping[str, list[str]]:
    return packages_distributions()


def _is_released(name: str, file: Path) -> bool:
    """Whether an installer put this very file there, from an index: then the version tells what is in it."""
    try:
        found: Distribution = distribution(name)
    except PackageNotFoundError:
        return False
    if found.read_text("direct_url.json") is not None:
        return False
    near = [each for each in found.files or () if each.name == file.name]
    return any(Path(str(found.locate_file(each))).resolve() == file for each in near)


def _file(module: str) -> Path | None:
    name = getattr(sys.modules.get(module), "__file__", None)
    return Path(name).resolve() if name else None
