"""Which steps a run has, and in which order: the wanted experiments, and what they need, by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from steerkit import registry
from steerkit.artifacts import PluginSpec
from steerkit.context import ConfigError, Run
from steerkit.errors import InputError, Problem, SteerkitError, nearest
from steerkit.interfaces import Config
from steerkit.models.language_model import check_layer
from steerkit.models.model_spec import Trained
from steerkit.parts import Experiment, RunPart, Step
from steerkit.settings import Steering
from steerkit.training.settings import Training

FINDINGS = "findings"
"""The step that runs an experiment: ``findings.NAME``."""
LAST = ("results", "report")
"""The steps that a run ends with."""
ROWS = "rows"
"""The step that a run which trains models begins with: what is wrong with rows should not wait for texts."""
PUSH = "push"
"""The step that uploads, where that is asked for."""


def with_experiments(run: Run) -> Run:
    """The run with its experiments: those that are asked for, after those that they need.

    Raises:
        SteerkitError: no such experiment, one stands twice, or its options are wrong.
    """
    asked: dict[str, Experiment] = {}
    for index, spec in enumerate(run.args.experiments):
        if spec.name in asked:
            raise InputError(
                "arguments", [Problem(f"experiments.{index}", f"{spec.name!r} stands twice", "leave one out")]
            )
        asked[spec.name] = _experiment(run, spec)
    found: dict[str, Experiment] = {}
    for name, experiment in asked.items():
        _add(run, name, experiment, asked, found, ())
    made = replace(run, experiments={**{n: e for n, e in found.items() if n not in asked}, **asked})
    if made.arms:
        training = made.settings.group(Training)
        made.models.trained = {
            name: Trained(arm.model, made.folder / f"trained/{name}", _whole(arm.adapter or training.adapter))
            for arm in made.arms.values()
            for name in map(arm.trained, training.training_seeds)
        }
    for name, model in made.derived.items():
        made.models.trained[name] = Trained(model.origin, model.folder(made.folder.path), whole=False)
    return made


def _whole(adapter: PluginSpec) -> bool:
    """Whether an adapter is kept as whole weights."""
    return bool(registry.get("adapters", adapter.name).whole)


def _add(
    run: Run,
    name: str,
    experiment: Experiment,
    asked: Mapping[str, Experiment],
    found: dict[str, Experiment],
    above: tuple[str, ...],
) -> None:
    """An experiment, and before it those that it needs."""
    if name in above:
        raise SteerkitError(f"experiments need each other: {' needs '.join((*above, name))}")
    own = replace(run, experiments={**asked, **found})
    for need in (*experiment.needs(own), *experiment.afterwards(own)):
        if need in registry.entries("experiments") and need not in found:
            other = asked.get(need) or _experiment(run, PluginSpec(name=need))
            _add(run, need, other, asked, found, (*above, name))
    found[name] = experiment


def _experiment(run: Run, spec: PluginSpec) -> Experiment:
    made: Experiment = _made("experiments", spec.name, {**run.settings.own(spec.name), **spec.options})
    return made


def _made(kind: str, name: str, options: Mapping[str, Any]) -> Any:
    """A plugin of a run's own block of settings."""
    cls = registry.get(kind, name)
    try:
        return cls(**options)
    except ValidationError as error:
        raise ConfigError(cls.Config, name, error) from error


def steps_of(run: Run) -> dict[str, Step]:
    """The steps of a run by their titles, each after those that it needs.

    Raises:
        SteerkitError: a step needs one that doesn't exist, or steps need each other.
    """
    found: dict[str, Step] = {}
    last = [*LAST, *([PUSH] if run.args.push_to_hub else [])]
    first = [ROWS] if run.arms else []
    for title in (*first, *(f"{FINDINGS}.{name}" for name in run.experiments), *last):
        _add_step(run, title, found, ())
    return found


def _add_step(run: Run, title: str, found: dict[str, Step], above: tuple[str, ...]) -> None:
    if title in found:
        return
    if title in above:
        raise SteerkitError(f"steps need each other: {' needs '.join((*above, title))}")
    step = step_of(run, title, above[-1] if above else "the run")
    for need in needs_of(run, step):
        _add_step(run, need, found, (*above, title))
    found[title] = step


def step_of(run: Run, title: str, wanted_by: str = "the run") -> Step:
    """The step of a title. Raises: SteerkitError when there is none."""
    name, _, part = title.partition(".")
    if name not in registry.entries("steps"):
        known = [*registry.entries("steps"), *registry.entries("experiments")]
        raise SteerkitError(
            f"{wanted_by} needs {title!r}: no step or experiment is called {name!r}; {nearest(name, known)}"
        )
    step: Step = _made("steps", name, run.settings.own(name))
    step.of = part
    return step


def needs_of(run: Run, step: Step) -> list[str]:
    """Titles of the steps that a step needs; an experiment's is that of its findings."""
    needs = step.needs(run.of(step, step.title))
    if isinstance(needs, str):
        raise SteerkitError(f"{step.title}: needs {needs!r}, a text; give names in a list: [{needs!r}]")
    return _titles(needs)


def followed_by(run: Run, step: Step) -> list[str]:
    """Titles of the steps whose every change makes a step again.

    Raises:
        SteerkitError: it does not need one of them.
    """
    found, needs = _titles(step.follows(run.of(step, step.title))), needs_of(run, step)
    for name in found:
        if name not in needs:
            raise SteerkitError(f"step {step.title}: follows {name!r} without needing it; add it to `needs`")
    return found


def _titles(needs: Sequence[str]) -> list[str]:
    known = registry.entries("experiments")
    return [f"{FINDINGS}.{need}" if need in known else need for need in needs]


def _unfinished(part: RunPart) -> str:
    """What a step's or an experiment's class lacks, in words."""

    def lacks(method: str, base: type[RunPart]) -> bool:
        return getattr(type(part), method) is getattr(base, method)

    if isinstance(part, Experiment):
        return f"experiment {part.name!r} defines no findings()" if lacks("findings", Experiment) else ""
    if not lacks("pieces", Step):
        return f"step {part.name!r} has pieces() and no work()" if lacks("work", Step) else ""
    return f"step {part.name!r} defines neither make() nor pieces(), work() and join()" if lacks("make", Step) else ""


def _too_deep(run: Run) -> Iterator[Problem]:
    """A block that no model of the run has."""
    deepest = max(run.models, key=run.models.depth)
    try:
        check_layer(run.peek(Steering).layer, deepest, run.models.depth(deepest))
    except SteerkitError as error:
        yield Problem("layer", str(error))


def known_groups() -> tuple[type[Config], ...]:
    """The groups of shared settings that any known step or experiment uses; one that doesn't load has none."""
    found: dict[type[Config], None] = {}
    for kind in ("steps", "experiments"):
        for name in registry.entries(kind):
            with suppress(SteerkitError):
                found |= dict.fromkeys(registry.get(kind, name).uses)
    return tuple(found)


def problems_of(run: Run, steps: Mapping[str, Step]) -> Iterator[Problem]:
    """What is wrong with a run's settings, as far as it can be found before anything runs; `where` is a key."""
    names = {*registry.entries("steps"), *registry.entries("experiments")}
    fields = {field for group in known_groups() for field in group.model_fields}
    for key in run.settings.given:
        if key not in fields | names:
            known = [*fields, *names, *type(run.args).model_fields]
            yield Problem(key, f"unknown key {key!r}", nearest(key, known))
    parts: list[tuple[str, RunPart]] = [*steps.items(), *run.experiments.items()]
    broken = False
    for group in dict.fromkeys(group for _, part in parts for group in part.uses):
        try:
            run.settings.group(group)
        except InputError as error:
            broken = True
            yield from error.problems
    if not broken and not run.planned and any(Steering in part.uses for _, part in parts):
        yield from _too_deep(run)
    if not broken:
        for title, part in parts:
            if lacks := _unfinished(part):
                yield Problem("experiments", lacks)
            try:
                yield from part.check(run.of(part, title))
            except InputError as error:
                yield from error.problems
            except SteerkitError as error:
                yield Problem(part.name, str(error))
