"""pydantic's errors in the words of someone who wrote YAML."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel

from steerkit.errors import Problem, nearest
from steerkit.recipe.document import Document, Key


def explain(error: Any, document: Document, prefix: Key, model: type[BaseModel]) -> list[Problem]:
    """A pydantic error in the words of someone who wrote YAML."""
    location = tuple(part for part in error["loc"] if not _is_internal(part))
    if location and location[-1] == "name" and error["type"] in ("model_type", "model_attributes_type"):
        location = location[:-1]
    key = (*prefix, *location)
    where = document.place(key)
    name = ".".join(map(str, key))
    value = error.get("input")
    match error["type"]:
        case "missing":
            about = _about(model, location)
            if not key[:-1]:  # whoever writes a recipe from nothing
                about += " (or take another recipe's, with `extends: RECIPE`)"
            return [Problem(document.cause(key[:-1], ""), f"{name!r} is missing", about.strip())]
        case "extra_forbidden":
            owner = _model_at(model, location[:-1])
            return [Problem(where, f"unknown key {name!r}; {nearest(str(location[-1]), list(owner.model_fields))}")]
        case "twice":
            place = document.place((*key, error["ctx"]["index"]))
            return [Problem(place, f"{name!r} has {error['ctx']['value']!r} twice; leave one out")]
        case "value_error":
            said = str(error["ctx"]["error"])
            return [Problem(document.cause(key, said), f"{name + ': ' if name else ''}{said}")]
        case "too_short":
            least = error["ctx"]["min_length"]
            return [Problem(where, f"{name!r} needs at least {least} item{'s' if least != 1 else ''}; it is {value!r}")]
        case "literal_error" | "enum":
            return [Problem(where, f"{name!r} is {value!r}, but must be {error['ctx']['expected']}")]
    kind = {
        "int_type": "a whole number",
        "int_from_float": "a whole number",
        "float_type": "a number",
        "bool_type": "true or false",
        "string_type": "text",
        "tuple_type": "a list",
        "dict_type": "a mapping",
        "list_type": "a list",
        "model_type": "a name or a mapping",
        "model_attributes_type": "a name or a mapping with a name",
        "int_parsing": "a whole number",
    }.get(error["type"])
    shown = json.dumps(value, ensure_ascii=False, default=repr)
    if kind:
        trap = ""
        if kind == "true or false" and isinstance(value, str):
            trap = " (YAML reads it as text; write true or false)"
        elif kind == "a list" and isinstance(value, str | int | float):
            trap = f" (write [{value}])"
        return [Problem(where, f"{name!r} must be {kind}, not {shown}{trap}", _about(model, location))]
    said = f"{name!r}: {error['msg'][:1].lower()}{error['msg'][1:]}, not {shown}"
    return [Problem(where, said, _about(model, location))]


def _is_internal(part: Any) -> bool:
    """pydantic's own markers in a location: `[key]`, union members."""
    return isinstance(part, str) and (part.startswith(("[", "function-", "tuple[", "nullable", "literal[")))


def _model_at(model: type[BaseModel], path: Sequence[Any]) -> type[BaseModel]:
    for part in path:
        info = model.model_fields.get(str(part))
        inner = _as_model(info.annotation) if info else None
        if inner is None:
            return model
        model = inner
    return model


def _as_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, type(int | None), tuple, dict):
        return next((m for m in map(_as_model, get_args(annotation)) if m is not None), None)
    return None


def _about(model: type[BaseModel], location: Sequence[Any]) -> str:
    """The field's own docstring, in one line."""
    owner = _model_at(model, location[:-1])
    info = owner.model_fields.get(str(location[-1])) if location else None
    return " ".join((info.description or "").split()).rstrip(".") if info else ""
