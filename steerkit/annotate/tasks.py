"""What an annotator is shown: spans of traces, or of generations, blinded, sampled and shuffled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from steerkit.data.chats import as_text
from steerkit.data.trace import Span, Trace, read_rows
from steerkit.errors import InputError, Problem, SteerkitError
from steerkit.store.files import digest

Place = tuple[str, int, int]
"""A span without its label: trace id, first character, end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A text that has spans: a trace's reasoning, or a generation's, and the prompt that it answers."""

    text: str
    prompt: str = ""

    @property
    def digest(self) -> str:
        """What the text is known by, wherever it is found again."""
        return digest(self.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One span to label. A judge's label of it, the condition and the strength are not in it: nothing can show them.

    Attributes:
        place: what is labelled: characters [start, end) of a text.
        tokens: first and last token of the span, as in `Span`; -1 where they aren't known.
        context: characters [start, end) around the span that are shown at first.
        votes: labels that are to be adjudicated, in an order that says nothing of who gave them.
    """

    place: Place
    tokens: tuple[int, int]
    text: Text
    context: tuple[int, int]
    votes: tuple[str, ...] = ()


def place_of(span: Span) -> Place:
    return span.trace_id, span.start, span.end


def trace_tasks(run: Path, context: int) -> list[Task]:
    """Every span of a run's traces.

    Raises:
        SteerkitError: the run has no spans yet, or some that don't fit its traces.
    """
    path = run / "spans.jsonl"
    if not path.is_file():
        raise SteerkitError(
            f"{path}: is not there: run the recipe until its spans are made, or give another run folder"
        )
    texts = {t.id: Text(text=t.text, prompt=as_text(t.prompt)) for t in read_rows(run / "traces.jsonl", Trace)}
    spans = read_rows(path, Span)
    problems = []
    for number, span in enumerate(spans, 1):
        text = texts.get(span.trace_id)
        if text is None:
            problems.append(
                Problem(f"{path}:{number}", f"there is no trace {span.trace_id!r} in {run / 'traces.jsonl'}")
            )
        elif not 0 <= span.start < span.end <= len(text.text):
            problems.append(Problem(f"{path}:{number}", f"characters {span.start} to {span.end} are not in the trace"))
    if problems:
        raise InputError(str(path), problems)
    return tasks_of(spans, spans, texts, context)


def tasks_of(chosen: Iterable[Span], spans: Sequence[Span], texts: Mapping[str, Text], context: int) -> list[Task]:
    """A task a place, each once, in the order of the text.

    Args:
        spans: all spans of the texts; `context` of them on either side are shown.
    """
    by_trace: dict[str, list[Place]] = {}
    for place in sorted({place_of(span) for span in spans}):
        by_trace.setdefault(place[0], []).append(place)
    tokens = {place_of(span): (span.first, span.last) for span in chosen}
    found = []
    for name, places in by_trace.items():
        text = texts[name]
        for number, place in enumerate(places):
            if place not in tokens:
                continue
            before = places[number - context][1] if number > context else 0
            after = places[number + context][2] if number + context + 1 < len(places) else len(text.text)
            shown = (min(before, place[1]), max(after, place[2]))
            found.append(Task(place=place, tokens=tokens[place], text=text, context=shown))
    return found


def sample(tasks: Sequence[Task], size: int | None, seed: int) -> list[Task]:
    """A random part, the same for every annotator, so that they can agree; a larger one holds the smaller."""
    order = sorted(tasks, key=lambda task: digest(["sample", seed, *task.place]))
    return order if size is None else order[:size]


def shuffled(tasks: Iterable[Task], annotator: str, seed: int) -> dict[str, Task]:
    """Tasks by an id that says nothing, in an order of the annotator's own."""
    named = {digest([seed, annotator, *task.place]): task for task in tasks}
    return dict(sorted(named.items()))
