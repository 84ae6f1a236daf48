"""Sentences of a run's generations with both judges' labels, made once and kept in the run folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from steerkit.annotate.tasks import Task, Text, tasks_of
from steerkit.bounded_yaml import load
from steerkit.errors import InputError, Problem, SteerkitError
from steerkit.files import digest, file_digest, write_json
from steerkit.tokens import split_answer
from steerkit.trace import Prompt, Span, generation_id, read_jsonl, read_rows, write_rows
from steerkit.trust import refuse_asking

FILE = "generations.jsonl"
JUDGED = "annotations/judges/generations.jsonl"
NOTES = "annotations/judges/generations.notes.json"
CHUNK = 64

Flag = Literal["generations", "keyword"]
"""Which sentences: those that the span judge gave the fitted label, or those with a word that the score judge
counts."""


def generation_tasks(run: Path, flag: Flag, context: int) -> list[Task]:
    """Flagged sentences of all generations, steered and not.

    Raises:
        SteerkitError: there are no generations yet, no sentence is flagged, or a judge can't be had.
    """
    recipe = read_recipe(run)
    spans = judged_generations(run, recipe)
    judge, label = _names(recipe)[flag], recipe["fitter"]["label"]
    flagged = [span for span in spans if span.judge == judge and span.label == label]
    if not flagged:
        raise SteerkitError(f"{run}: no sentence of its generations is {label!r} by {judge}: there is nothing to check")
    return tasks_of(flagged, spans, generation_texts(run, recipe), context)


def generation_texts(run: Path, recipe: dict[str, Any] | None = None) -> dict[str, Text]:
    """The reasoning of each generation by its id (`generation_id`)."""
    marker = (recipe or read_recipe(run))["think_end"]
    prompts = {prompt.id: prompt.prompt for prompt in read_rows(run / "prompts.jsonl", Prompt)}
    return {
        name: Text(text=split_answer(row["text"], marker)[0], prompt=prompts.get(row["prompt_id"], ""))
        for name, row in generation_rows(run).items()
    }


def generation_rows(run: Path) -> dict[str, dict[str, Any]]:
    """Rows of ``generations.jsonl`` by their id.

    Raises:
        SteerkitError: it isn't there, or has damaged lines.
    """
    if not (run / FILE).is_file():
        raise SteerkitError(f"{run / FILE}: is not there: run the recipe until its generations are made")
    problems: list[Problem] = []
    rows = [row for _, row in read_jsonl(run / FILE, problems)]
    if problems:
        raise InputError(str(run / FILE), problems)
    return {generation_id(row): row for row in rows}


def judged_generations(run: Path, recipe: dict[str, Any]) -> list[Span]:
    """Every sentence of every generation, once by each of the run's judges. Token numbers are -1: not known here."""
    texts = generation_texts(run, recipe)
    key = digest([file_digest(run / FILE), recipe["span_judge"], recipe["score_judge"], recipe["fitter"]["label"]])
    notes, path = run / NOTES, run / JUDGED
    if notes.is_file() and path.is_file() and key in notes.read_text(encoding="utf-8"):
        return read_rows(path, Span)
    spans = _judge(run, texts, recipe)
    write_rows(path, spans)
    counts = Counter(f"{span.judge}: {span.label}" for span in spans)
    write_json(notes, {"key": key, "labels": dict(counts.most_common())})
    return spans


def _judge(run: Path, texts: dict[str, Text], recipe: dict[str, Any]) -> list[Span]:
    from steerkit.arguments import PluginSpec

    judges = [PluginSpec.model_validate(recipe[name]).build("judges") for name in ("span_judge", "score_judge")]
    for judge in judges:
        judge.open(run / "judges" / judge.name, lambda done, total: None)  # the answers that the run paid for
        refuse_asking(judge, [text.text for text in texts.values()], run)
    names, label = _names(recipe), recipe["fitter"]["label"]
    found: list[Span] = []
    with _progress(len(texts)) as advance:
        for chunk in _chunks(list(texts.items())):
            places: list[tuple[str, int, int]] = []
            for (name, _), spans in zip(chunk, judges[0].annotate([text.text for _, text in chunk]), strict=True):
                places += [(name, start, end) for start, end, _ in spans]
                found += [_span(name, start, end, kind, names["generations"]) for start, end, kind in spans]
            scores = judges[1].score([texts[name].text[start:end] for name, start, end in places])
            for place, score in zip(places, scores, strict=True):
                found.append(_span(*place, label if score.get("keyword", 0.0) > 0 else "other", names["keyword"]))
            advance(len(chunk))
    return found


def _span(trace_id: str, start: int, end: int, label: str, judge: str) -> Span:
    return Span(trace_id=trace_id, label=label, judge=judge, start=start, end=end, first=-1, last=-1)


def _names(recipe: dict[str, Any]) -> dict[Flag, str]:
    spans, scores = recipe["span_judge"]["name"], recipe["score_judge"]["name"]
    return {"generations": spans, "keyword": scores if scores != spans else f"{scores}:score"}


def read_recipe(run: Path) -> dict[str, Any]:
    """The recipe that a run was made by. Raises: SteerkitError when it isn't there."""
    path = run / "recipe.yaml"
    if not path.is_file():
        raise SteerkitError(f"{path}: is not there: give the folder of a run that has made its generations")
    recipe = load(path)
    if not isinstance(recipe, dict):
        raise SteerkitError(f"{path}: is no recipe: a mapping of keys to values")
    return recipe


def _chunks(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]


@contextmanager
def _progress(total: int) -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("finding sentences", total=total)
        yield lambda count: progress.advance(task, count)
