"""Everything in a run that can be labelled, and where annotators disagree."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from steerkit.annotate.generations import generation_texts, judged_generations, read_recipe
from steerkit.annotate.store import annotators, folder_of, labels_of, read_log, spans_of
from steerkit.annotate.tasks import Place, Task, Text, place_of, tasks_of
from steerkit.errors import SteerkitError
from steerkit.files import digest
from steerkit.trace import Span, Trace, read_rows


def run_texts(run: Path) -> dict[str, Text]:
    """Every text of a run that can have spans, by id: traces and generations."""
    found: dict[str, Text] = {}
    if (run / "traces.jsonl").is_file():
        found = {
            trace.id: Text(text=trace.text, prompt=trace.prompt) for trace in read_rows(run / "traces.jsonl", Trace)
        }
    if (run / "generations.jsonl").is_file():
        found |= generation_texts(run)
    return found


def run_spans(run: Path, ids: Collection[str]) -> list[Span]:
    """The run's own spans of these texts."""
    path = run / "spans.jsonl"
    found = [span for span in read_rows(path, Span) if span.trace_id in ids] if path.is_file() else []
    if (run / "generations.jsonl").is_file() and set(ids) - {span.trace_id for span in found}:
        found += [span for span in judged_generations(run, read_recipe(run)) if span.trace_id in ids]
    return found


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
    labelled = [span for name in names for span in fresh_labels(run, name, texts)[0]]
    votes: dict[Place, list[str]] = {}
    for span in labelled:
        votes.setdefault(place_of(span), []).append(span.label)
    shared = {place: given for place, given in votes.items() if len(given) > 1}
    if not shared:
        raise SteerkitError(
            f"{run}: no span has labels of two annotators (labelled so far: {', '.join(names) or 'nobody'}); "
            f"label the same spans with `steerkit annotate {run} --annotator NAME` first"
        )
    differ = {place: given for place, given in shared.items() if len(set(given)) > 1}
    spans = run_spans(run, {place[0] for place in differ})
    chosen = [span for span in labelled if place_of(span) in differ]
    tasks = tasks_of(chosen, [*spans, *chosen], texts, context)
    return [replace(task, votes=_mixed(task.place, differ[task.place])) for task in tasks], len(shared)


def _mixed(place: Place, votes: list[str]) -> tuple[str, ...]:
    """Votes in an order of each span's own, so that A is not always the same person."""
    order = sorted(range(len(votes)), key=lambda number: digest(["votes", *place, number]))
    return tuple(votes[number] for number in order)
