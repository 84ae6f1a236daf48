"""A recipe with every default filled in, and every setting explained."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from steerkit import registry
from steerkit.artifacts import PluginSpec, plugin_fields
from steerkit.parts import RunPart
from steerkit.recipe.document import dump
from steerkit.recipe.load import planned_run
from steerkit.settings import Recipe
from steerkit.store.identity import plain


def resolved_yaml(recipe: Recipe, *, documented: bool = False) -> str:
    """The recipe with every default filled in, its steps' and plugins' too; `documented` puts meanings above keys."""
    run, steps = planned_run(recipe)
    lines: list[str] = []
    _emit(recipe, lines, "", documented)
    every: list[RunPart] = [*steps.values(), *run.experiments.values()]
    parts = list({part.name: part for part in every}.values())
    for group in dict.fromkeys(group for part in parts for group in part.uses):
        _emit(run.settings.group(group), lines, "", documented)
    for part in parts:
        if type(part.config).model_fields:
            about = (type(part).__doc__ or "").strip().splitlines()
            lines += [f"# {about[0]}"] if documented and about else []
            lines.append(f"{part.name}:")
            _emit(part.config, lines, "  ", documented)
    return "\n".join(lines) + "\n"


def _emit(model: BaseModel, lines: list[str], pad: str, documented: bool) -> None:
    kinds = plugin_fields(type(model))
    for name, info in type(model).model_fields.items():
        value = getattr(model, name)
        if documented and info.description:
            lines += [f"{pad}# {text.strip()}" for text in info.description.splitlines()]
        if isinstance(value, PluginSpec):
            lines += [f"{pad}{name}:", f"{pad}  name: {value.name}"]
            _emit(registry.build(kinds[name,], value).config, lines, pad + "  ", documented)
        elif isinstance(value, BaseModel):
            lines.append(f"{pad}{name}:")
            _emit(value, lines, pad + "  ", documented)
        else:
            lines += _entry(name, plain(value), pad)


def _entry(name: str, value: Any, pad: str) -> list[str]:
    """``name: value`` on one line, or a block below it when mappings are nested."""
    nested = isinstance(value, dict) and any(isinstance(v, dict | list) for v in value.values())
    text = dump(value, default_flow_style=not nested, width=1000).removesuffix("\n...\n").rstrip()
    if nested:
        return [f"{pad}{name}:", *(f"{pad}  {line}" for line in text.splitlines())]
    return [f"{pad}{name}: {text}"]
