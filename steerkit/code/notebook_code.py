"""The code of a class that a notebook defines: its source, and that of whatever else of the notebook it uses."""

from __future__ import annotations

import ast
import inspect
import json
import linecache
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any
from uuid import uuid4

from steerkit.code.plugin_code import Code, files_of
from steerkit.code.source_files import SHARED, is_installed, source_digest
from steerkit.store.files import digest

PROCESS = uuid4().hex


class Unknown(Exception):
    """What a class's results depend on can't be told."""


def notebook_code(cls: type) -> Code:
    """Source of a class of a notebook, of its functions and classes that it uses, and the values of its variables.

    Where that can't be had (no source, a variable that is no plain value), the code is that of this process alone, with
    a warning: no other process takes its results for done.
    """
    name = f"class {cls.__qualname__} of this notebook"
    found: dict[str, str] = {}
    try:
        _collect(cls.__qualname__, cls, found)
    except Unknown as reason:
        warnings.warn(
            f"plugin {cls.__qualname__!r}: {reason}, so its results are done again in every process; put the class "
            "into a file of its own, and name that under `plugins`",
            UserWarning,
            stacklevel=2,
        )
        found = {"": f"process {PROCESS}"}
    return Code(name, {"": f"sha256:{digest(found)}"} if "" not in found else found)


def _collect(name: str, thing: Any, found: dict[str, str]) -> None:
    """Take in a thing of the notebook, and what it uses, by name."""
    if name in found:
        return
    if isinstance(thing, type | FunctionType) and thing.__module__ == "__main__":
        source = found[name] = _source(thing)
        for used in _names(source):
            if used in vars(sys.modules["__main__"]):
                _collect(used, vars(sys.modules["__main__"])[used], found)
        return
    if isinstance(thing, type | FunctionType | BuiltinFunctionType):
        home = sys.modules.get(thing.__module__ or "")
        found[name] = f"{thing.__qualname__} of {_module(home) if home else thing.__module__}"
    elif isinstance(thing, ModuleType):
        found[name] = _module(thing)
    elif type(thing).__module__ == "typing":  # an annotation
        found[name] = repr(thing)
    else:
        found[name] = _value(name, thing)


def _module(module: ModuleType) -> str:
    """An installed module by its name, one of the user's by its source."""
    file = getattr(module, "__file__", None)
    if file is None or is_installed(Path(file)) or module.__name__.partition(".")[0] in SHARED:
        return module.__name__
    return " ".join([module.__name__, *(source_digest(path) for path in files_of(module.__name__).values())])


def _value(name: str, value: Any) -> str:
    try:
        return json.dumps(value, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise Unknown(f"it uses {name!r}, a {type(value).__name__}, whose value can't be followed") from error


def _source(thing: type | FunctionType) -> str:
    functions = list(_functions(thing))
    if any(f.__closure__ and f.__code__.co_freevars != ("__class__",) for f in functions):
        raise Unknown("it uses variables of the function that defines it")
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError):  # a class, where the notebook is no file
        for function in functions:
            lines = linecache.getlines(function.__code__.co_filename)
            for node in ast.walk(ast.parse("".join(lines))):
                if isinstance(node, ast.ClassDef) and node.name == thing.__name__:
                    return "".join(lines[node.lineno - 1 : node.end_lineno])
    raise Unknown("its source can't be had")


def _functions(thing: type | FunctionType) -> Iterator[FunctionType]:
    for value in vars(thing).values() if isinstance(thing, type) else [thing]:
        inner = getattr(value, "fget", None) or getattr(value, "func", None) or getattr(value, "__func__", value)
        if isinstance(inner, FunctionType):
            yield inner


def _names(source: str) -> list[str]:
    """Names that a source reads, sorted."""
    tree = ast.parse(dedent(source))
    return sorted({node.id for node in ast.walk(tree) if isinstance(node, ast.Name)})
