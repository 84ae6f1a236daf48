"""Recipes read, extended, overridden, checked; every problem at once, each with its place."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from steerkit import registry
from steerkit.artifacts import PluginSpec, plugin_fields
from steerkit.context import ConfigError, Run, Settings
from steerkit.errors import InputError, Problem, SteerkitError, nearest
from steerkit.graph import known_groups, problems_of, steps_of, with_experiments
from steerkit.interfaces import Config
from steerkit.models.model_spec import Loading
from steerkit.models.models import Models
from steerkit.parts import RunPart, Step
from steerkit.recipe import trust
from steerkit.recipe.document import Document, Key, merge, read_yaml
from steerkit.recipe.explain import explain
from steerkit.recipe.find import find_preset, find_recipe, is_file
from steerkit.settings import Recipe, SteeringArguments
from steerkit.store.folder import RunFolder

OWN = ("name", "about")
"""What a recipe takes from no other: it asks a question of its own, in a folder of its own."""
MADE = "made_with"
"""What a run's ``recipe.yaml`` says beside the settings: it is a recipe, too."""


def load_recipe(
    name: str,
    overrides: Sequence[str] = (),
    presets: Sequence[str] = (),
    *,
    allow: Collection[str] = (),
    trust_remote_code: bool = False,
    own: Collection[str] = (),
) -> Recipe:
    """Read, extend, override and check a recipe.

    Args:
        name: a file, or a shipped recipe's name.
        overrides: ``key.subkey=value`` strings, each value read as YAML.
        presets: recipes whose own settings (without name, question and what they extend) are laid over it, in order.
        allow: what a recipe may do only with the user's permission: `plugins`, `servers`, `push` (see
            `steerkit.recipe.trust`).
        trust_remote_code: confirms that a recipe which says so may run code of its models' repositories.
        own: keys whose value the caller sets afterwards: the recipe's values for them need no confirmation.

    Raises:
        InputError: all problems, each with file:line:column; among them what the recipe may not do without permission.
    """
    trust.check_allowed(allow)
    document, folder = read_extended(name)
    for preset in presets:
        document = document.merged(read_yaml(find_preset(preset)).without(*OWN, MADE, "extends"))
    for assignment in overrides:
        document.set(assignment)
    document = document.without_empty("models")
    document.given |= {(key,) for key in own}
    problems = [*document.problems, *trust.secrets(document), *trust.unconfirmed(document, allow, trust_remote_code)]
    problems += trust.load_plugin_files(document, folder, allow)
    recipe, found = _checked(document, allow)
    problems += found
    if recipe is not None and not problems:
        problems += _graph_problems(recipe, document)
    if problems or recipe is None:
        raise InputError(name, sorted(dict.fromkeys(problems), key=_by_place))
    return recipe


def load_arguments(name: str | Path, **changes: Any) -> SteeringArguments:
    """The arguments of a recipe (a file or a shipped one's name), some of them changed, for a `SteeringTrainer`.

    Changes are laid over the recipe as a file's are that extends it: ``prompts={"test": 16}`` leaves the other counts
    and the source as they are, a list takes the place of the whole list, and a plugin's new name drops the old one's
    options.

    Raises:
        InputError: the recipe is wrong, or a change is.
    """
    recipe = load_recipe(str(name), own=tuple(changes), trust_remote_code="trust_remote_code" in changes)
    data = {**recipe.model_dump(include={*SteeringArguments.model_fields}), **recipe.shared}
    over = {key: value.given if isinstance(value, PluginSpec) else value for key, value in changes.items()}
    try:
        return SteeringArguments(**{**data, **{key: merge(data.get(key), value) for key, value in over.items()}})
    except ValidationError as error:
        document = Document(places={(key,): f"load_arguments({key}=...)" for key in changes})
        problems = [problem for e in error.errors() for problem in explain(e, document, (), SteeringArguments)]
        raise InputError(str(name), problems) from error


def read_extended(name: str) -> tuple[Document, Path]:
    """A recipe's document with those that it extends below it, and the folder its paths are relative to."""
    path = find_recipe(name)
    document, seen, current = read_yaml(path).without(MADE), [path.resolve()], path
    document.data.setdefault("name", path.stem)
    while "extends" in document.data:
        where, wanted = document.place(("extends",)), document.data["extends"]
        document = document.without("extends")
        try:
            current = _parent(wanted, current)
        except SteerkitError as error:
            raise InputError(name, [Problem(where, str(error))]) from error
        if current.resolve() in seen:
            raise InputError(name, [Problem(where, f"{wanted} extends itself")])
        seen.append(current.resolve())
        document = read_yaml(current).without(*OWN, MADE).merged(document)
    return document, path.parent


def _parent(name: Any, child: Path) -> Path:
    """The recipe that another one extends: by a path or name from its folder, else as any recipe."""
    if not isinstance(name, str):
        raise SteerkitError(f"'extends' must be the name or file of a recipe, not {json.dumps(name)}")
    near = [child.parent / name, child.parent / f"{name}.yaml"]
    return next((path for path in near if is_file(path)), None) or find_recipe(name)


def _checked(document: Document, allow: Collection[str]) -> tuple[Recipe | None, list[Problem]]:
    """The recipe, and what is wrong with its keys, groups of shared settings, steps' own options and plugins."""
    data = document.data
    recipe, problems = _validated(Recipe, data, document, ())
    problems += _plugin_problems(Recipe, document, (), allow)
    blocks = {
        **dict.fromkeys(registry.entries("steps"), "steps"),
        **dict.fromkeys(registry.entries("experiments"), "experiments"),
    }
    groups = known_groups()
    fields = {field for group in groups for field in group.model_fields}
    for key, value in data.items():
        if key in blocks:
            problems += _block_problems(document, key, blocks[key], value, allow)
        elif key not in fields and key not in Recipe.model_fields:
            known = [*fields, *blocks, *Recipe.model_fields]
            fix = "name a preset, or write it into a file" if key == "extends" else nearest(key, known)
            problems.append(Problem(document.place((key,)), f"unknown key {key!r}; {fix}"))
    for group in groups:
        given = {name: data[name] for name in group.model_fields if name in data}
        if given:
            problems += _validated(group, given, document, (), partial=True)[1]
            problems += _plugin_problems(group, document, (), allow)
    return recipe, problems


def _validated(
    model: type[Any], data: Any, document: Document, prefix: Key, *, partial: bool = False
) -> tuple[Any, list[Problem]]:
    """A model of plain data, strictly, and what is wrong with it.

    Args:
        partial: what is missing is no problem here.
    """
    try:
        return model.model_validate_json(json.dumps(data), strict=True), []
    except ValidationError as error:
        broken = error.errors()
    inner = {e["loc"][:-1] for e in broken}  # a list too short only because its items are wrong
    return None, [
        problem
        for e in broken
        if not (e["type"] == "too_short" and e["loc"] in inner) and not (partial and e["type"] == "missing")
        for problem in explain(e, document, prefix, model)
    ]


def _block_problems(document: Document, name: str, kind: str, value: Any, allow: Collection[str]) -> list[Problem]:
    """What is wrong with a step's or an experiment's own options."""
    if value is None:
        return []
    if not isinstance(value, dict):
        shown = json.dumps(value, ensure_ascii=False)
        fix = f"write `{name}: {{OPTION: VALUE}}`; what runs is listed under `experiments`"
        return [Problem(document.place((name,)), f"{name!r} holds the options of a {kind[:-1]}, not {shown}", fix)]
    try:
        config = registry.get(kind, name).Config
    except SteerkitError as error:
        return [Problem(document.place((name,)), str(error))]
    return [
        *_validated(config, value, document, (name,), partial=True)[1],
        *_plugin_problems(config, document, (name,), allow),
    ]


def _plugin_problems(model: type[BaseModel], document: Document, prefix: Key, allow: Collection[str]) -> list[Problem]:
    """Names and options of all plugins that a model's fields name, and what they would do that needs permission."""
    problems = []
    for path, kind, value in _slots(model, document, prefix):
        spec = {"name": value} if isinstance(value, str) else value
        if not isinstance(spec, dict) or not isinstance(spec.get("name"), str):
            continue  # the schema reports it
        try:
            cls = registry.get(kind, spec["name"])
        except SteerkitError as error:
            problems.append(Problem(document.place((*path, "name")), str(error)))
            continue
        options = {k: v for k, v in spec.items() if k != "name"}
        config, found = _validated(cls.Config, options, document, path, partial=kind == "experiments")
        problems += found
        if config is not None:
            problems += trust.unconfirmed_options(document, path, options, config, allow)
            problems += _nested(cls.Config, document, path, allow)
    return problems


def _nested(config: type[BaseModel], document: Document, path: Key, allow: Collection[str]) -> list[Problem]:
    """The same of plugins that a plugin's own options name."""
    return _plugin_problems(config, document, path, allow) if plugin_fields(config) else []


def _slots(model: type[BaseModel], document: Document, prefix: Key) -> Iterator[tuple[Key, str, Any]]:
    """(path, kind, value) of every place that names a plugin."""
    for path, kind in plugin_fields(model).items():
        value: Any = document.data
        for part in (*prefix, *path):
            if isinstance(value, list):
                value = value[int(part)]
            else:
                value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, list):
            for index, item in enumerate(value):
                yield (*prefix, *path, index), kind, item
        elif value is not None:
            yield (*prefix, *path), kind, value


def planned_run(recipe: Recipe) -> tuple[Run, dict[str, Step]]:
    """A recipe's run, to be asked and not run, and its steps.

    Raises:
        SteerkitError: its steps don't fit together.
    """
    loading = Loading(**{field: getattr(recipe, field) for field in Loading.__dataclass_fields__})
    run = Run(
        name=recipe.name,
        about=recipe.about,
        args=recipe,
        settings=Settings(recipe.shared),
        models=Models(recipe.models, recipe.writer, loading),
        folder=RunFolder(Path(recipe.output_dir or f"runs/{recipe.name}")),
        planned=True,
    )
    run = with_experiments(run)
    return run, steps_of(run)


def _graph_problems(recipe: Recipe, document: Document) -> list[Problem]:
    """Groups of settings that the run's steps need and the recipe lacks, and what the steps find wrong."""
    if strangers := list(_unknown_models(recipe, document)):
        return strangers
    try:
        run, steps = planned_run(recipe)
    except ConfigError as error:
        prefix = (error.key,) if error.key else ()
        return [problem for e in error.errors for problem in explain(e, document, prefix, error.config)]
    except InputError as error:
        return _placed(error.problems, document)
    except SteerkitError as error:
        return [Problem(document.place(("experiments",)), str(error))]
    parts: list[RunPart] = [*steps.values(), *run.experiments.values()]
    groups = dict.fromkeys(group for part in parts for group in part.uses)
    problems = _missing(document, groups)
    for part in parts:
        config, own = type(part).Config, document.data.get(part.name)
        problems += _validated(config, own or {}, document, (part.name,))[1] if config is not Config else []
    return problems or _placed(problems_of(run, steps), document)


def _unknown_models(recipe: Recipe, document: Document) -> Iterator[Problem]:
    """Names of models that the recipe's own settings use and `models` doesn't have."""
    keys: list[tuple[Key, str]] = [(("writer",), recipe.writer)] if recipe.writer else []
    keys += [(("models", name, "id_map", to), to) for name, spec in recipe.models.items() for to in spec.id_map]
    for key, name in keys:
        if name not in recipe.models:
            where = ".".join(map(str, key[:-1] or key))
            said = f"{where!r}: no model is called {name!r}; {nearest(name, list(recipe.models))}"
            yield Problem(document.place(key), said)


def _missing(document: Document, groups: Collection[type[Config]]) -> list[Problem]:
    found = []
    for group in groups:
        given = {name: document.data[name] for name in group.model_fields if name in document.data}
        found += _validated(group, given, document, ())[1]
    return found


def _placed(problems: Any, document: Document) -> list[Problem]:
    """Problems whose `where` is a key of the recipe, at that key's place."""
    found = []
    for problem in problems:
        key = tuple(int(part) if part.isdigit() else part for part in problem.where.split("."))
        found.append(replace(problem, where=document.cause(key, problem.message)))
    return found


def _by_place(problem: Problem) -> tuple[str, list[int]]:
    name, *numbers = problem.where.rsplit(":", 2)
    return name, [int(n) for n in numbers if re.fullmatch("[0-9]{1,9}", n)]
