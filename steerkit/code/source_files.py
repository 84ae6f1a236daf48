"""The Python files that a file is made of: itself and all that it imports from its own folder.

They are found without running it. An import counts wherever it stands, also inside a function. Imports by computed
names can't be seen here.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

SHARED = frozenset({"steerkit", "steerkit_plugins", *sys.stdlib_module_names})
"""Top-level names that are never a file beside a plugin's, whatever lies there."""

INSTALLED = frozenset({"site-packages", "dist-packages"})


def imported_files(file: Path, root: Path, only: str = "") -> dict[str, Path]:
    """Dotted module name below `root` → file, of a file below `root` and of all that it imports from there.

    Args:
        only: the top-level module or package that counts; all that lie beside the file when left out.
    """
    start = module_name(file, root)
    found = {start: file}
    todo = [start]
    while todo:
        name = todo.pop()
        package = name if found[name].name == "__init__.py" else name.rpartition(".")[0]
        for dotted in _imports(_read(found[name]), package):
            if dotted.partition(".")[0] == only if only else beside(root, dotted):
                new = {k: v for k, v in _files(root, dotted) if k not in found}
                found |= new
                todo += new
    return dict(sorted(found.items()))


def module_name(file: Path, root: Path) -> str:
    """Dotted name of a file below `root`, a package's for its ``__init__.py``; a dot within a name becomes `_`."""
    parts = file.relative_to(root).with_suffix("").parts
    parts = parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts
    return ".".join(part.replace(".", "_") for part in parts)


def beside(root: Path, dotted: str) -> bool:
    """Whether a dotted name is, or lies in, a module or package of `root`, as in the folder of a script.

    Of a package without ``__init__.py`` only what lies in it counts: an installed one may have its name.
    """
    top, _, rest = dotted.partition(".")
    if top in SHARED or not top:
        return False
    if (root / f"{top}.py").is_file() or (root / top / "__init__.py").is_file():
        return True
    inner = root / top / rest.partition(".")[0]
    return bool(rest) and (inner.is_dir() or inner.with_name(f"{inner.name}.py").is_file())


def is_installed(path: Path) -> bool:
    """Whether a file lies where an installer put it."""
    return not INSTALLED.isdisjoint(path.parts)


def source_digest(path: Path) -> str:
    """Digest of a text file, whichever line endings it has; ``absent`` where there is none."""
    try:
        data = path.read_bytes()
    except OSError:
        return "absent"
    text = data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return f"sha256:{hashlib.sha256(text).hexdigest()[:16]}"


def _files(root: Path, dotted: str) -> Iterator[tuple[str, Path]]:
    """What importing a name runs: the ``__init__.py`` of each package on the way, then the module."""
    folder, name = root, ""
    for part in dotted.split("."):
        name = f"{name}.{part}".lstrip(".")
        if (folder / part / "__init__.py").is_file():
            yield name, folder / part / "__init__.py"
        elif (folder / f"{part}.py").is_file():
            yield name, folder / f"{part}.py"
            return
        elif not (folder / part).is_dir():
            return
        folder = folder / part


def _read(file: Path) -> bytes:
    """Nothing where a file can't be read: running it says what is wrong."""
    try:
        return file.read_bytes()
    except OSError:
        return b""


@lru_cache(512)
def _imports(source: bytes, package: str) -> tuple[str, ...]:
    """Absolute names of all modules that a source may import; names within modules are among them."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return ()
    found: list[str] = []
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                found += [alias.name for alias in names]
            case ast.ImportFrom(module=module, names=names, level=level):
                base = _absolute("." * level + (module or ""), package)
                found += [f"{base}.{alias.name}".lstrip(".") for alias in names if base is not None]
            case ast.Call(func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module")):
                if node.args and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
                    found.append(_absolute(node.args[0].value, package) or "")
    return tuple(dict.fromkeys(filter(None, found)))


def _absolute(name: str, package: str) -> str | None:
    """A name without leading dots; None where it points above the folder."""
    level = len(name) - len(name.lstrip("."))
    above = package.split(".") if package else []
    if level > len(above) + 1:
        return None
    kept = above[: len(above) + 1 - level] if level else []
    return ".".join([*kept, *filter(None, [name[level:]])])
