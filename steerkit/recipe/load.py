"""Recipes: found by name, extended, overridden, checked; every problem at once, each with its place."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from steerkit import registry
from steerkit.errors import InputError, Problem, SteerkitError, nearest
from steerkit.judging.metrics import OWN, MetricsError, run_metrics
from steerkit.methods import method_problems
from steerkit.recipe import trust
from steerkit.recipe.document import Document, Key, dump, read_yaml
from steerkit.settings import PluginSpec, Recipe, plugin_fields
from steerkit.sources import checks_answers


def shipped_folder() -> Path:
    """Recipes that come with the package: in the wheel, or beside the package in a checkout."""
    inside = Path(__file__).parent.parent / "_recipes"
    return inside if inside.is_dir() else Path(__file__).parent.parent.parent / "recipes"


def shipped() -> list[Path]:
    """Recipe files that come with the package."""
    return sorted(shipped_folder().glob("*.yaml"))


def find_recipe(name: str) -> Path:
    """A recipe by path or name: a local file first, then a shipped one, with or without ``.yaml``.

    Raises:
        SteerkitError: there is none, with the nearest name.
    """
    places = [Path(name), Path(f"{name}.yaml"), shipped_folder() / name, shipped_folder() / f"{name}.yaml"]
    for path in places:
        if _is_file(path):
            return path
    raise SteerkitError(
        f"{name}: no such recipe, neither a file here nor a shipped one; "
        + nearest(name.removesuffix(".yaml"), [path.stem for path in shipped()])
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def find_preset(name: str) -> Path:
    """A recipe whose settings are laid over another's: ``preset-NAME``, or any recipe.

    Raises:
        SteerkitError: there is none, with the nearest name.
    """
    try:
        return find_recipe(f"preset-{name}")
    except SteerkitError:
        return find_recipe(name)


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
        allow: what a recipe may do only with the user's word: `plugins`, `servers`, `push` (see
            `steerkit.recipe.trust`).
        trust_remote_code: confirms that a recipe which says so may run code of its models' repositories.
        own: keys whose value the caller sets afterwards: what the recipe says of them needs nobody's word.

    Raises:
        InputError: all problems, each with file:line:column; among them what the recipe may not do without a word.
    """
    trust.check_allowed(allow)
    document, folder = read_extended(name)
    for preset in presets:
        over = read_yaml(find_preset(preset))
        for key in ("name", "about", "extends"):
            over.data.pop(key, None)
        document = document.merged(over)
    for assignment in overrides:
        document.set(assignment)
    document.given |= {(key,) for key in own}
    problems = [*document.problems, *trust.secrets(document), *trust.unconfirmed(document, allow, trust_remote_code)]
    problems += trust.load_plugin_files(document, folder, allow)
    problems += _check_plugins(document, allow)
    recipe: Recipe | None = None
    try:
        recipe = Recipe.model_validate_json(json.dumps(document.data), strict=True)
    except ValidationError as error:
        broken = error.errors()
        inner = {e["loc"][:-1] for e in broken}  # a list too short only because its items are wrong
        problems += [
            problem
            for e in broken
            if not (e["type"] == "too_short" and e["loc"] in inner)
            for problem in _explain(e, document)
        ]
    if recipe is not None and not problems:
        for check in (_check_windows, _check_methods, _check_metrics):
            problems += check(recipe, document)
    if problems or recipe is None:
        raise InputError(name, sorted(dict.fromkeys(problems), key=_by_place))
    return recipe


def read_extended(name: str) -> tuple[Document, Path]:
    """A recipe's document with those that it extends below it, and the folder its paths are relative to."""
    path = find_recipe(name)
    document, seen = read_yaml(path), [path.resolve()]
    folder, current = path.parent, path
    while "extends" in document.data:
        parent_name = str(document.data.pop("extends"))
        near = [current.parent / parent_name, current.parent / f"{parent_name}.yaml"]
        parent = next((p for p in near if _is_file(p)), None) or find_recipe(parent_name)
        if parent.resolve() in seen:
            raise InputError(name, [Problem(document.place(("extends",)), f"{parent_name} extends itself")])
        seen.append(parent.resolve())
        document, current = read_yaml(parent).merged(document), parent
    return document, folder


def _slots(document: Document) -> Iterator[tuple[Key, str, Any]]:
    """(path, kind, value) of every place that names a plugin."""
    for path, kind in plugin_fields(Recipe).items():
        value: Any = document.data
        for part in path:
            value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, list):
            for index, item in enumerate(value):
                yield (*path, index), kind, item
        elif value is not None:
            yield path, kind, value


def _check_plugins(document: Document, allow: Collection[str]) -> list[Problem]:
    """Names and options of all plugins that the recipe names, and what they would do that needs the user's word."""
    problems = []
    for path, kind, value in _slots(document):
        spec = {"name": value} if isinstance(value, str) else value
        if not isinstance(spec, dict) or not isinstance(spec.get("name"), str):
            continue  # the schema reports it
        try:
            cls = registry.get(kind, spec["name"])
        except SteerkitError as error:
            problems.append(Problem(document.place((*path, "name")), str(error)))
            continue
        options = {k: v for k, v in spec.items() if k != "name"}
        try:
            config = cls.Config.model_validate_json(json.dumps(options), strict=True)
        except ValidationError as error:
            problems += [p for e in error.errors() for p in _explain(e, document, path, cls.Config)]
        else:
            problems += trust.unconfirmed_options(document, path, options, config, allow)
    return problems


def _check_windows(recipe: Recipe, document: Document) -> list[Problem]:
    """Windows that fitters and experiments use must be among those extracted."""
    extractor = recipe.extractor.build("extractors")
    have = list(extractor.windows())
    shown = ", ".join(f"{a}..{b}" for a, b in have)
    problems = []
    for key, spec in (("fitter", recipe.fitter), ("baseline_fitter", recipe.baseline_fitter)):
        a, b = spec.build("fitters").config.window if spec else have[0]
        if (a, b) not in have:
            where = document.place((key, "window"))
            problems.append(
                Problem(where, f"window {a}..{b} is not extracted (there is {shown})", "add it to extractor.windows")
            )
    if recipe.offsets is not None:
        widest = max(have, key=lambda w: w[1] - w[0])
        for index, (a, b) in enumerate(recipe.offsets.windows()):
            if a < widest[0] or b > widest[1]:
                where = document.place(("offsets", "starts", index))
                fix = "widen extractor.sweep, or leave this start out"
                problems.append(Problem(where, f"window {a}..{b} is outside the extracted {shown}", fix))
    return problems


def _check_metrics(recipe: Recipe, document: Document) -> list[Problem]:
    """The judges must know the fitted label and the metric that the strength is chosen by."""
    label = recipe.fitter.build("fitters").config.label
    answers = checks_answers(registry.get("prompts", recipe.prompts.source.name))
    try:
        span_judge, score_judge = (spec.build("judges") for spec in (recipe.span_judge, recipe.score_judge))
        run_metrics(recipe, span_judge, score_judge, label=label, answers=answers)
    except MetricsError as error:
        return [Problem(document.place(tuple(p.where.split("."))), p.message, p.fix) for p in error.problems]
    except SteerkitError as error:
        # A judge that reads its labels from files: they need not be there before the run begins.
        unknown = recipe.choose.metric not in OWN
        return [Problem(document.place(("choose", "metric")), str(error))] if unknown else []
    return []


def _check_methods(recipe: Recipe, document: Document) -> list[Problem]:
    """Baselines must differ from each other and from the fitted vector."""
    return [
        Problem(document.place(key), f"{'.'.join(map(str, key))!r} {said}", fix)
        for key, said, fix in method_problems(recipe)
    ]


def _explain(error: Any, document: Document, prefix: Key = (), model: type[BaseModel] = Recipe) -> list[Problem]:
    """A pydantic error in the words of someone who wrote YAML."""
    location = tuple(part for part in error["loc"] if not _is_internal(part))
    if not prefix and any(location[: len(path)] == path and len(location) > len(path) for path in _spec_paths()):
        location = location[:-1] if location[-1] == "name" and error["type"] != "missing" else location
    key = (*prefix, *location)
    where = document.place(key)
    name = ".".join(map(str, key))
    value = error.get("input")
    match error["type"]:
        case "missing":
            return [Problem(where, f"{name!r} is missing", _about(model, location))]
        case "extra_forbidden":
            owner = _model_at(model, location[:-1])
            return [Problem(where, f"unknown key {name!r}; {nearest(str(location[-1]), list(owner.model_fields))}")]
        case "twice":
            place = document.place((*key, error["ctx"]["index"]))
            return [Problem(place, f"{name!r} has {error['ctx']['value']!r} twice; leave one out")]
        case "value_error":
            return [Problem(where, f"{name + ': ' if name else ''}{error['ctx']['error']}")]
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
        "model_type": "a mapping",
        "model_attributes_type": "a name or a mapping with a name",
        "int_parsing": "a whole number",
    }.get(error["type"])
    if kind:
        shown = json.dumps(value, ensure_ascii=False)
        trap = (
            " (YAML reads it as text; write true or false)"
            if kind == "true or false" and isinstance(value, str)
            else ""
        )
        return [Problem(where, f"{name!r} must be {kind}, not {shown}{trap}", _about(model, location))]
    return [Problem(where, f"{name!r}: {error['msg'][:1].lower()}{error['msg'][1:]}, not {json.dumps(value)}")]


def _is_internal(part: Any) -> bool:
    """pydantic's own markers in a location: `[key]`, union members."""
    return isinstance(part, str) and (part.startswith(("[", "function-", "tuple[", "nullable")))


def _spec_paths() -> list[Key]:
    return [tuple(path) for path in plugin_fields(Recipe)]


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
    if get_origin(annotation) in (Union, type(int | None), tuple):
        return next((m for m in map(_as_model, get_args(annotation)) if m is not None), None)
    return None


def _about(model: type[BaseModel], location: Sequence[Any]) -> str:
    """The field's own docstring, in one line."""
    owner = _model_at(model, location[:-1])
    info = owner.model_fields.get(str(location[-1])) if location else None
    return " ".join((info.description or "").split()).rstrip(".") if info else ""


def _by_place(problem: Problem) -> tuple[str, list[int]]:
    name, *numbers = problem.where.rsplit(":", 2)
    return name, [int(n) for n in numbers if re.fullmatch("[0-9]{1,9}", n)]


def resolved_yaml(recipe: Recipe, *, documented: bool = False) -> str:
    """The recipe with every default filled in, its plugins' too; `documented` puts each meaning above its key."""
    lines: list[str] = []
    _emit(recipe, lines, "", documented, plugin_fields(Recipe))
    return "\n".join(lines) + "\n"


def _emit(model: BaseModel, lines: list[str], pad: str, documented: bool, kinds: Mapping[Key, str]) -> None:
    for name, info in type(model).model_fields.items():
        value = getattr(model, name)
        if documented and info.description:
            lines += [f"{pad}# {text.strip()}" for text in info.description.splitlines()]
        if isinstance(value, PluginSpec):
            lines += [f"{pad}{name}:", f"{pad}  name: {value.name}"]
            _emit(value.build(kinds[name,]).config, lines, pad + "  ", documented, {})
        elif isinstance(value, BaseModel):
            lines.append(f"{pad}{name}:")
            inner = {path[1:]: kind for path, kind in kinds.items() if path[0] == name}
            _emit(value, lines, pad + "  ", documented, inner)
        else:
            lines += _entry(name, json.loads(json.dumps(_plain(value))), pad)


def _entry(name: str, value: Any, pad: str) -> list[str]:
    """``name: value`` on one line, or a block below it when mappings are nested."""
    nested = isinstance(value, dict) and any(isinstance(v, dict | list) for v in value.values())
    text = dump(value, default_flow_style=not nested, width=1000).removesuffix("\n...\n").rstrip()
    if nested:
        return [f"{pad}{name}:", *(f"{pad}  {line}" for line in text.splitlines())]
    return [f"{pad}{name}: {text}"]


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return {k: _plain(v) for k, v in value.model_dump().items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value
