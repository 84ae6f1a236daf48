"""Whether what a run will read is there: files that its recipe names, and prompts where only files hold them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from steerkit import registry
from steerkit.artifacts import specs_in
from steerkit.context import Run
from steerkit.errors import InputError, Problem, SteerkitError
from steerkit.interfaces import Config
from steerkit.parts import RunPart, Step
from steerkit.steps.prompts import Prompts, source_of

Key = tuple[str | int, ...]


def check_inputs(run: Run, steps: Mapping[str, Step]) -> None:
    """Look at what a run will read, as far as no server need be asked and no model loaded.

    Raises:
        InputError: files that are missing, prompts that can't be read or are too few, by their keys in the recipe.
    """
    problems = list(_missing(run, steps))
    if not any(problem.where.startswith("prompts.source") for problem in problems):
        problems += _wrong_prompts(run)
    if problems:
        raise InputError(run.name, problems)


def _missing(run: Run, steps: Mapping[str, Step]) -> Iterator[Problem]:
    """Files that options name and that are not there."""
    parts: list[RunPart] = [*steps.values(), *run.experiments.values()]
    configs: dict[Key, list[Config]] = {(part.name,): [part.config] for part in parts}
    configs[()] = [run.settings.group(group) for group in dict.fromkeys(group for part in parts for group in part.uses)]
    for key, own in configs.items():
        for where, path in (found for config in own for found in _files(config, key)):
            if not path.exists():
                said = f"{path}: no such file"
                yield Problem(where, said, f"relative paths begin at the current folder, {Path.cwd()}")


def _files(config: Config, key: Key) -> Iterator[tuple[str, Path]]:
    """(key, path) of every file that a config names, and those of the plugins that it names."""
    for field, paths in config.reads().items():
        for path in paths:
            yield ".".join(map(str, (*key, field))), path
    for inner, kind, spec in specs_in(config):
        yield from _files(registry.build(kind, spec).config, (*key, *inner))


def _wrong_prompts(run: Run) -> Iterator[Problem]:
    """What reading the prompts would say, where that is only a look into files."""
    source = source_of(run)
    if source is None or not source.at_hand():
        return
    try:
        source.read(Prompts(**run.settings.own("prompts")).config.counts(), run.seed)
    except InputError as error:
        yield from error.problems
    except SteerkitError as error:
        yield Problem("prompts.source", str(error))
