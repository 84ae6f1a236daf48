"""Labels that are of the run's texts as they are now, where annotators disagree, and what was settled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from steerkit.annotate.run_texts import run_spans, run_texts
from steerkit.annotate.store import ADJUDICATED, HUMAN, annotators, folder_of, labels_of, read_log, spans_of
from steerkit.annotate.tasks import Place, Task, Text, place_of, tasks_of
from steerkit.data.trace import Span
from steerkit.errors import SteerkitError
from steerkit.store.files import digest


def fresh_labels(run: Path, name: str, texts: dict[str, Text]) -> tuple[list[Span], int]:
    """An annotator's labelled spans, and how many were left out because their texts have changed since."""
    labels = labels_of(read_log(folder_of(run) / f"{name}.jsonl"))
    fresh = [row for place, row in labels.items() if place[0] in texts and texts[place[0]].digest == row["digest"]]
    return spans_of(fresh), len(labels) - len(fresh)


def disagreements(run: Path, context: int) -> tuple[list[Task], int]:
    """Spans on which annotators disagree, with their votes, and how many spans two or more have labelled.

    Raises:
        SteerkitError: fewer than two annotators, or no span that two have labelled.
    """
    names, texts = annotators(run), run_texts(run)
    shared = _shared(run, texts)
    if not shared:
        raise SteerkitError(
            f"{run}: no span has labels of two annotators (labelled so far: {', '.join(names) or 'nobody'}); "
            f"label the same spans with `steerkit annotate {run} --annotator NAME` first"
        )
    differ = {place: spans for place, spans in shared.items() if len({span.label for span in spans}) > 1}
    chosen = [spans[0] for spans in differ.values()]
    tasks = tasks_of(chosen, [*run_spans(run, {place[0] for place in differ}), *chosen], texts, context)
    return [replace(task, votes=_mixed(task.place, differ[task.place])) for task in tasks], len(shared)


def settled(run: Path, texts: dict[str, Text]) -> tuple[list[Span], int]:
    """The labels that count after adjudication: each decision, and what two or more annotators agree on.

    Returns:
        those spans, and how many decisions were left out because their texts have changed since.
    """
    decisions, stale = fresh_labels(run, ADJUDICATED, texts)
    agreed = {
        place: replace(spans[0], judge=HUMAN + ADJUDICATED)
        for place, spans in _shared(run, texts).items()
        if len({span.label for span in spans}) == 1
    }
    found = agreed | {place_of(span): span for span in decisions}
    return [span for _, span in sorted(found.items())], stale


def _shared(run: Path, texts: dict[str, Text]) -> dict[Place, list[Span]]:
    """Labels of the spans that two or more annotators have labelled."""
    given: dict[Place, list[Span]] = {}
    for name in annotators(run):
        for span in fresh_labels(run, name, texts)[0]:
            given.setdefault(place_of(span), []).append(span)
    return {place: spans for place, spans in given.items() if len(spans) > 1}


def _mixed(place: Place, given: list[Span]) -> tuple[str, ...]:
    """Labels in an order of each span's own, so that A is not always the same person."""
    order = sorted(range(len(given)), key=lambda number: digest(["votes", *place, number]))
    return tuple(given[number].label for number in order)
