"""What results depend on besides settings, as keys and seals hold it: code, files' contents, models' weights.

An `Identity` is part of a step's key, so that the step is done again when one changes, and it is kept with what the
step made, so that a later run can say which one did.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import to_jsonable_python


@dataclass(frozen=True)
class Identity:
    """Something that results depend on.

    Attributes:
        title: what it is, as the recipe calls it: ``steerer reflect``.
        settings: JSON of what was asked of it: a plugin's name and options, defaults included.
        code: file or distribution that it is made of → digest or version; ``""`` is the one that `name` names.
        files: data file that it reads → digest.
        name: its file or distribution.
    """

    title: str
    settings: Any = None
    code: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    name: str = ""

    def key(self) -> Any:
        """JSON that differs when results may. Data files count by their contents, which `settings` holds."""
        return [_in_order(self.settings), dict(self.code)]

    def versions(self) -> dict[str, str]:
        """Digest or version of everything that it is made of, for `changes`."""
        return {**self.code, **self.files}


def _in_order(value: Any) -> Any:
    """JSON in which the order of a mapping counts: patterns, say, may be tried one after the other."""
    if isinstance(value, Mapping):
        return [[name, _in_order(item)] for name, item in value.items()]
    return [_in_order(item) for item in value] if isinstance(value, list) else value


def changes(before: Mapping[str, str], now: Identity) -> list[str]:
    """What of it is not as it was, in words; nothing where files only have other names."""
    versions = now.versions()
    if sorted(before.values()) == sorted(versions.values()):
        return []
    found = []
    for file in dict.fromkeys((*versions, *before)):
        was, is_ = before.get(file), versions.get(file)
        if was != is_:
            name = f"{file or now.name} ({now.title})"
            told = was and is_ and "sha256:" not in was + is_
            found.append(f"{name} is {is_} and was {was}" if told else f"{name} changed")
    return found


def keyed(value: Any) -> Any:
    """JSON of a step's inputs, in which each `Identity` is its key."""
    if isinstance(value, Identity):
        return value.key()
    if isinstance(value, Mapping):
        return {name: keyed(item) for name, item in value.items()}
    return [keyed(item) for item in value] if isinstance(value, list | tuple) else value


def within(value: Any) -> Iterator[Identity]:
    """Every `Identity` in a step's inputs."""
    if isinstance(value, Identity):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from within(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from within(item)


def made_of(identities: Iterable[Identity]) -> dict[str, dict[str, str]]:
    """What `changes` needs to know of identities later: title → versions."""
    return {each.title: each.versions() for each in identities}


def put(into: Any, path: Sequence[str | int], value: Any) -> None:
    """Replace what stands at a path of keys and indices in nested JSON."""
    for part in path[:-1]:
        into = into[part]
    into[path[-1]] = value


def plain(value: Any) -> Any:
    """JSON of a setting's value; what has no order of its own (a set) is sorted."""
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((plain(item) for item in value), key=repr)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(type(value), "model_fields"):
        own = {name: plain(getattr(value, name)) for name in type(value).model_fields}
        return own | plain(value.model_extra or {})
    return to_jsonable_python(value)
