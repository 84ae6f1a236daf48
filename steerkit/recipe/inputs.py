"""What the result of each step of a run depends on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from steerkit.context import Run
from steerkit.graph import FINDINGS
from steerkit.identity import code_identity, config_inputs
from steerkit.parts import Step


def inputs_of(run: Run, title: str, step: Step, model: Callable[[str], Sequence[Any]]) -> Iterator[Any]:
    """What a step's result depends on, but for other steps and the release: JSON and `Identity`.

    Args:
        model: what is to be known of a model by its name.
    """
    parts: list[tuple[str, str, Any]] = [("steps", title, step)]
    if step.name == FINDINGS:  # of other steps the part behind the dot may be called like an experiment
        parts.append(("experiments", step.of, run.experiments[step.of]))
    for kind, name, part in parts:
        yield code_identity(kind, part, name)
        yield config_inputs(part.config, name.partition(".")[0])
        for group in part.uses:
            yield {group.__name__: config_inputs(run.settings.group(group))}
        for each in part.models(run.of(part, name)):
            yield list(model(each))
    yield run.seed
