"""What experiments on trained models check before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from steerkit import registry
from steerkit.context import Run
from steerkit.errors import Problem, SteerkitError, nearest
from steerkit.judging.metrics import unchoosable
from steerkit.settings import Labelling
from steerkit.steps.scores import metrics_of_run


def unknown_metric(key: str, name: str, run: Run) -> Iterator[Problem]:
    """A metric that the run does not have, or that is better neither up nor down.

    Args:
        key: of the option that names it.
        name: empty for the score judge's first one.
    """
    with suppress(SteerkitError):  # the scores say what is wrong with a judge
        yield from unchoosable(key, name, metrics_of_run(run))


def unknown_label(key: str, label: str, run: Run) -> Iterator[Problem]:
    """A label that the span judge does not give.

    Args:
        key: of the option that names it.
    """
    with suppress(SteerkitError):  # the step `spans` says what is wrong with a judge
        judge = registry.build("judges", run.peek(Labelling).span_judge)
        labels = list(judge.labels())
        if labels and label not in labels:
            yield Problem(key, f"the span judge {judge.name!r} has no label {label!r}", nearest(label, labels))
