"""YAML with places: every value knows its file:line:column, duplicate keys are errors, 1e-4 is a number."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from steerkit.errors import InputError, Problem, redacted
from steerkit.store.bounded_yaml import compose, read_text

Key = tuple[str | int, ...]
NAMES = ("name", "weights")
"""Keys that say what a mapping's other keys are about."""


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2's scalars: `no`, `on` and 12:30 are text, 1e-4 is a number."""


class _Dumper(yaml.SafeDumper):
    """SafeDumper that also quotes a text which `_Loader` would read as a number (1e5)."""


_Loader.yaml_implicit_resolvers = {}
for tag, pattern, first in (
    ("null", r"^(?:~|null|Null|NULL|)$", "~nN"),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^[-+]?(?:0|[1-9][0-9_]*)$", "-+0123456789"),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
    ("float", r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", "-+."),
):
    for kind in (_Loader, _Dumper):
        kind.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(pattern), list(first))
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^$"), [""])
_PLAIN = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str"))
_NO_TEXT = re.compile("[\0\ud800-\udfff]")


@dataclass
class Document:
    """Parsed YAML: plain data, and where each key and value stands.

    Attributes:
        data: nested dicts, lists and scalars; keys are strings.
        places: path of keys and indices → ``file:line:column``.
        problems: what is wrong with it as YAML.
        folders: key at the top → folder of the file that sets it.
        given: what the user set on the command line, or in code.
    """

    data: dict[str, Any] = field(default_factory=dict)
    places: dict[Key, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    folders: dict[str, Path] = field(default_factory=dict)
    given: set[Key] = field(default_factory=set)

    def place(self, key: Key) -> str:
        """Where a key stands, or the nearest thing above it."""
        while key and key not in self.places:
            key = key[:-1]
        return self.places.get(key, "recipe")

    def cause(self, key: Key, message: str) -> str:
        """Where what is wrong with a value comes from: of a whole mapping, the part that the message names; of that,
        what the user set."""
        words = re.findall(r"\w+", message)
        named = [part for part in self.places if part and part[:-1] == key and part[-1] in words]
        named = sorted(named, key=lambda part: words.index(str(part[-1]))) or ([key] if key else [])
        own = [part for name in named for part in self.places if part[: len(name)] == name and part in self.given]
        return self.place((*own, *named, key)[0])

    def is_given(self, key: Key) -> bool:
        """Whether the user named this value, or a whole that it is a part of."""
        return any(key[:length] in self.given for length in range(1, len(key) + 1))

    def without(self, *keys: str) -> Document:
        """This document without some of its keys at the top."""
        data = {key: value for key, value in self.data.items() if key not in keys}
        places = {key: place for key, place in self.places.items() if not key or key[0] not in keys}
        return replace(self, data=data, places=places)

    def without_empty(self, key: str) -> Document:
        """This document without the entries of a mapping that are null: so a recipe leaves out what it extends has."""
        own = self.data.get(key)
        if not isinstance(own, Mapping) or all(value is None for value in own.values()):
            return self
        return replace(self, data={**self.data, key: {k: v for k, v in own.items() if v is not None}})

    def merged(self, child: Document) -> Document:
        """This document with another's values over it, mapping by mapping."""
        places = dict(self.places)
        for key, place in child.places.items():
            places[key] = place
        data = {**self.data, **{k: merge(self.data.get(k), v) for k, v in child.data.items()}}
        return Document(data, places, [*self.problems, *child.problems], {**self.folders, **child.folders}, self.given)

    def set(self, assignment: str) -> None:
        """Apply one ``a.b=value`` override, the value read as YAML."""
        name, equals, text = assignment.partition("=")
        where = f"--set {redacted(assignment)}"
        if not equals or not name.strip():
            self.problems.append(Problem(where, "an override is written key.subkey=value"))
            return
        key: Key = tuple(int(part) if re.fullmatch("[0-9]{1,9}", part) else part for part in name.strip().split("."))
        try:
            node = compose(text, _Loader)
        except yaml.YAMLError as error:
            self.problems.append(Problem(where, f"the value is not YAML: {_short(error)}"))
            return
        inner = Document()
        value = None if node is None else _value(node, key, inner, lambda _: where)
        if lacks := _assign(self.data, key, value):
            self.problems.append(Problem(where, lacks))
            return
        for old in [place for place in self.places if place[: len(key)] == key]:
            del self.places[old]
        made = {key[:length]: where for length in range(1, len(key))}  # mappings that were not there before
        self.places = made | self.places | inner.places | {key: where}
        self.problems += inner.problems
        self.given.add(key)


def dump(value: Any, **style: Any) -> str:
    """YAML of plain data that `read_yaml` reads back as it was, keys in their order."""
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, **style))


def read_yaml(path: Path, shown: str | None = None) -> Document:
    """Parse a recipe file.

    Raises:
        SteerkitError: the file can't be read.
        InputError: it is not YAML, or not a mapping.
    """
    name = shown or str(path)
    text = read_text(path, name)
    try:
        node = compose(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise InputError(name, [Problem(where, f"not YAML: {_short(error)}")]) from error
    except yaml.YAMLError as error:
        raise InputError(name, [Problem(name, f"not YAML: {_short(error)}")]) from error
    if not isinstance(node, yaml.MappingNode):
        what = "the file is empty; " if node is None else ""
        fix = "begin with `name: NAME` and `extends: RECIPE` (`steerkit recipe ls` lists them)"
        raise InputError(name, [Problem(f"{name}:1:1", f"{what}a recipe is a mapping of keys to values", fix)])
    document = Document()
    document.data = _value(node, (), document, lambda n: f"{name}:{n.start_mark.line + 1}:{n.start_mark.column + 1}")
    document.folders = dict.fromkeys(document.data, path.parent)
    return document


def _short(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError):
        return " ".join(part for part in (error.context, error.problem) if part)
    return str(error).splitlines()[0]


def _value(node: yaml.Node, key: Key, document: Document, place: Any) -> Any:
    document.places.setdefault(key, place(node))
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                document.problems.append(Problem(place(key_node), "a key must be plain text"))
                continue
            name = str(key_node.value)
            if name in found:
                first = document.places[(*key, name)]
                document.problems.append(Problem(place(key_node), f"the key {name!r} stands twice; first at {first}"))
                continue
            document.places[(*key, name)] = place(key_node)
            found[name] = _value(value_node, (*key, name), document, place)
        return found
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*key, index), document, place) for index, item in enumerate(node.value)]
    try:
        if node.tag not in _PLAIN:
            raise ValueError(f"a recipe has no values of the kind {node.tag.removeprefix('tag:yaml.org,2002:')!r}")
        value = _Loader("").construct_object(node)
        if isinstance(value, str) and _NO_TEXT.search(value):
            raise ValueError("a text with a NUL or half of a surrogate pair")
        return value
    except (yaml.YAMLError, ValueError, LookupError, OverflowError) as error:
        document.problems.append(Problem(place(node), f"can't be read: {str(error).splitlines()[0]}"))
        return None


def merge(base: Any, over: Any) -> Any:
    """A setting with another laid over it: mappings key by key, anything else is replaced."""
    if isinstance(base, Mapping) and isinstance(over, str) and any(key in base for key in NAMES):
        name = next(key for key in NAMES if key in base)
        return base if base[name] == over else over
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        # Naming another plugin, or other weights, replaces their options: they belong to the old ones.
        if any(key in over and over[key] != base.get(key) for key in NAMES):
            return dict(over)
        return {**base, **{k: merge(base[k], v) if k in base else v for k, v in over.items()}}
    return over


def _assign(data: Any, key: Key, value: Any) -> str:
    """Set a part of the data; why it can't be set, in words, or nothing."""
    for depth, part in enumerate(key[:-1]):
        if isinstance(data, dict):
            if isinstance(data.get(str(part)), str):  # `judge: rules` and `base: WEIGHTS` in short
                data[str(part)] = {"weights" if key[0] == "models" else "name": data[str(part)]}
            data = data.setdefault(str(part), {})
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            return _lacks(data, key[: depth + 1])
    last = key[-1]
    if isinstance(data, dict):
        data[str(last)] = value
    elif isinstance(data, list) and isinstance(last, int) and last < len(data):
        data[last] = value
    else:
        return _lacks(data, key)
    return ""


def _lacks(data: Any, key: Key) -> str:
    """That a value has no such part, in words."""
    whole, part = ".".join(map(str, key[:-1])), key[-1]
    if not isinstance(data, list):
        return f"{whole!r} is {json.dumps(data, ensure_ascii=False)}, which has no parts; set {whole!r} itself"
    last = f"the last is {whole}.{len(data) - 1}" if data else "it is empty"
    return f"{whole!r} is a list and has no item {part!r}: items are numbered from 0, {last}; or set the whole list"
