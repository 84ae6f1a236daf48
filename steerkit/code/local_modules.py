"""Plugin files as modules: each folder is a package of its own, so that helpers beside a plugin are that plugin's.

Two recipes may each have a ``helper.py``, imported as ``import helper`` or ``from . import helper``, at the top of the
plugin file or inside a function. A file runs again when its source, or a helper's, has changed.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from steerkit.code.source_files import SHARED, beside, imported_files, is_installed, module_name, source_digest

PREFIX = "steerkit_local_"
DIGEST = "__steerkit_digest__"  # of the source that a module was made of
SOURCE = "__steerkit_source__"  # that source, for other processes
USED = "__steerkit_used__"  # what a plugin file was made of when it was run


@dataclass(frozen=True)
class Used:
    """A source file that a plugin is made of.

    Attributes:
        module: name of its module in this process.
        digest: of the file when the plugin was run.
    """

    module: str
    file: Path
    digest: str


def used_by(path: Path) -> Mapping[str, Used] | None:
    """Name in its folder → source file, of a plugin file and its helpers; None where it was not run as they are now."""
    module, static = sys.modules.get(f"{_package(path.parent)}.{module_name(path, path.parent)}"), _static(path)
    if module is None:
        return None
    if not hasattr(module, USED) and not _is_stale(static):  # another plugin file imported it
        setattr(module, USED, {**_seen(module, path.parent), **static})
    known: Mapping[str, Used] = getattr(module, USED, {})
    same = static.items() <= known.items() and all(source_digest(used.file) == used.digest for used in known.values())
    return known if same else None


def run(path: Path) -> Mapping[str, Used]:
    """Run a plugin file as a module; helpers that have changed, or were loaded for an older state of it, run again.

    Returns:
        Name in its folder → source file, of it and of its helpers.

    Raises:
        Exception: whatever the file raises; `forget` it then.
    """
    static, package = _static(path), _package(path.parent)
    own = static[module_name(path, path.parent)].module
    before: Mapping[str, Used] = getattr(sys.modules.get(own), USED, {})
    if own in sys.modules or _is_stale(static):
        _forget({**before, **static}.values())
    find_in(package, path.parent)
    spec = spec_from_file_location(own, path, loader=_Loader(own, str(path)))
    assert spec is not None and spec.loader is not None
    module = sys.modules[own] = module_from_spec(spec)
    spec.loader.exec_module(module)
    found = {**_seen(module, path.parent), **static}
    setattr(module, USED, found)
    return found


def forget(path: Path) -> None:
    """Take a plugin file and its helpers for not loaded."""
    _forget(_static(path).values())


def is_local(module: str) -> bool:
    """Whether a module is a plugin file or a helper of one."""
    return module.startswith(PREFIX)


def local_files(module: str) -> dict[str, Path]:
    """Name in its folder → source file, of such a module and of all that it imports from its folder."""
    root, file = root_of(module), Path(str(sys.modules[module].__file__))
    seen = {name: used.file for name, used in _seen(sys.modules[module], root).items()}
    return dict(sorted({**seen, **imported_files(file, root)}.items()))


def root_of(module: str) -> Path:
    """The folder whose package a local module belongs to."""
    return Path(sys.modules[module.partition(".")[0]].__path__[0])


def find_in(package: str, root: Path) -> None:
    """Have the modules of a package found in a folder."""
    if package not in sys.modules:
        made = sys.modules[package] = ModuleType(package)
        made.__path__ = [str(root)]
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    importlib.invalidate_caches()


class _Finder(MetaPathFinder):
    """Finds the modules of plugins' folders, for `_Loader`."""

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if not fullname.startswith(PREFIX) or path is None:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(fullname, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    """Runs a file's source as it is now, imports of what lies beside it being of its folder's package.

    Bytecode is neither read nor left: it is checked by time and size, which a quick edit may leave as they were.
    """

    def get_code(self, fullname: str) -> CodeType:
        package, _, _ = fullname.partition(".")
        tree = ast.parse(self.get_data(self.path), self.path)
        tree = ast.fix_missing_locations(_ToPackage(package, root_of(fullname)).visit(tree))
        return compile(tree, self.path, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        setattr(module, DIGEST, source_digest(Path(self.path)))
        setattr(module, SOURCE, self.get_data(self.path))
        super().exec_module(module)


class _ToPackage(ast.NodeTransformer):
    """Makes ``import helper`` an import from the package of the folder that ``helper.py`` lies in."""

    def __init__(self, package: str, root: Path) -> None:
        self.package, self.root = package, root

    def visit_Import(self, node: ast.Import) -> list[ast.stmt]:
        made: list[ast.stmt] = []
        for alias in node.names:
            if not beside(self.root, alias.name):
                made.append(ast.Import([alias]))
            elif alias.asname:
                made.append(ast.Import([ast.alias(f"{self.package}.{alias.name}", alias.asname)]))
            else:  # binds the first name alone, and loads the rest
                top, dot, _ = alias.name.partition(".")
                made += [ast.Import([ast.alias(f"{self.package}.{alias.name}")])] if dot else []
                made.append(ast.ImportFrom(self.package, [ast.alias(top)], 0))
        return [ast.copy_location(each, node) for each in made]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom:
        if node.level == 0 and any(beside(self.root, f"{node.module}.{alias.name}") for alias in node.names):
            node.module = f"{self.package}.{node.module}"
        return node


def _static(path: Path) -> dict[str, Used]:
    """What a plugin file is made of as far as its source tells."""
    package, files = _package(path.parent), imported_files(path, path.parent)
    return {name: Used(f"{package}.{name}", file, source_digest(file)) for name, file in files.items()}


def _is_stale(static: Mapping[str, Used]) -> bool:
    """Whether one of these modules was loaded from another source than its file holds now."""
    loaded = [used for used in static.values() if used.module in sys.modules]
    return any(getattr(sys.modules[used.module], DIGEST, "") != used.digest for used in loaded)


def _seen(module: ModuleType, folder: Path) -> dict[str, Used]:
    """Modules of the folder that a module's names lead to, however they were imported."""
    found: dict[str, Used] = {}
    todo, done = [module], {module.__name__}
    while todo:
        for other in _named_in(todo.pop()):
            file = Path(getattr(other, "__file__", None) or "/")
            if other.__name__ in done or other.__name__.partition(".")[0] in SHARED or not file.is_relative_to(folder):
                continue
            done.add(other.__name__)
            if not is_installed(file.relative_to(folder)):
                found[module_name(file, folder)] = Used(other.__name__, file, source_digest(file))
                todo.append(other)
    return found


def _named_in(module: ModuleType) -> Iterator[ModuleType]:
    """The modules that a module's names are, or whose functions and classes they are."""
    for value in list(vars(module).values()):
        home = sys.modules.get(value.__module__ or "") if isinstance(value, type | FunctionType) else value
        if isinstance(home, ModuleType):
            yield home


def _package(folder: Path) -> str:
    return PREFIX + hashlib.sha256(str(folder).encode()).hexdigest()[:16]


def _forget(files: Iterable[Used]) -> None:
    """Take modules out of `sys.modules`, and out of the packages that they are attributes of."""
    names = {used.module for used in files}
    packages = {".".join(name.split(".")[:length]) for name in names for length in range(2, name.count(".") + 1)}
    no_files = {name for name in packages if getattr(sys.modules.get(name), "__file__", None) is None}
    for name in names | no_files:
        if sys.modules.pop(name, None) is not None:
            package, _, last = name.rpartition(".")
            if hasattr(sys.modules.get(package), last):
                delattr(sys.modules[package], last)
