"""YAML of strangers: no object tags, no bombs of aliases, no bottomless nesting, none that takes a minute to read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from steerkit.errors import SteerkitError
from steerkit.store.text_files import not_utf8

LARGEST = 256 * 1024  # bytes of a file
MOST = 50_000  # values, each alias counted as all that it stands for
DEEPEST = 64  # levels


def read_text(path: Path, name: str | None = None) -> str:
    """A file's text.

    Raises:
        SteerkitError: it can't be read, is no UTF-8, or is larger than any such file is.
    """
    name = name or str(path)
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        raise SteerkitError(f"{name}: can't be read: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > LARGEST:
        raise SteerkitError(f"{name}: is larger than {LARGEST // 1024} KiB, which no such YAML file is")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SteerkitError(not_utf8(path)) from error


def compose(text: str, loader: Any = yaml.SafeLoader) -> yaml.Node | None:
    """The tree of a YAML text.

    Raises:
        yaml.YAMLError: it is not YAML, or nests or repeats itself beyond all measure.
    """
    try:
        node: yaml.Node | None = yaml.compose(text, Loader=loader)
    except RecursionError as error:
        raise yaml.YAMLError(f"nested more than {DEEPEST} levels deep") from error
    if node is not None:
        _measure(node, {}, 0)
    return node


def _measure(node: yaml.Node, known: dict[int, tuple[int, int]], depth: int) -> tuple[int, int]:
    """(values, levels) of a tree, aliases written out."""
    if id(node) in known:
        return known[id(node)]
    if depth > DEEPEST:  # also where an alias stands inside what it names
        raise yaml.YAMLError(f"nested more than {DEEPEST} levels deep")
    children = [part for item in _items(node) for part in (item if isinstance(item, tuple) else (item,))]
    measured = [_measure(child, known, depth + 1) for child in children]
    size, levels = 1 + sum(s for s, _ in measured), 1 + max((levels for _, levels in measured), default=0)
    if levels > DEEPEST or size > MOST:
        what = f"nested more than {DEEPEST} levels deep" if levels > DEEPEST else f"more than {MOST:,} values"
        raise yaml.YAMLError(f"{what}, aliases written out")
    known[id(node)] = size, levels
    return size, levels


def _items(node: yaml.Node) -> Any:
    return node.value if isinstance(node, yaml.CollectionNode) else ()


def load(path: Path) -> Any:
    """The plain data of a YAML file that steerkit (or a person) wrote: mappings, lists, texts, numbers.

    Raises:
        SteerkitError: it can't be read, or is not such YAML.
    """
    text = read_text(path)
    try:
        node = compose(text)
        return None if node is None else yaml.SafeLoader("").construct_document(node)
    except (yaml.YAMLError, ValueError, LookupError, TypeError, RecursionError) as error:  # odd tags raise any of them
        raise SteerkitError(f"{path}: is not YAML ({' '.join(str(error).split())})") from error
