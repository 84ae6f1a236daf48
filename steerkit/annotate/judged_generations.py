"""Sentences of a run's generations with both judges' labels, made once and kept in the run folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from steerkit import registry
from steerkit.annotate.generations import generation_files, generation_texts
from steerkit.annotate.tasks import Task, Text, tasks_of
from steerkit.artifacts import PluginSpec
from steerkit.data.trace import Span, read_rows, write_rows
from steerkit.errors import SteerkitError
from steerkit.identity import spec_identity
from steerkit.interfaces import OTHER, Judge
from steerkit.judging import ask as judging
from steerkit.judging.ask import metrics_of
from steerkit.judging.metrics import shares_labels
from steerkit.recipe.trust import refuse_asking
from steerkit.store.files import digest, file_digest, write_json
from steerkit.store.folder import read_recipe

JUDGED = "annotations/judges/generations.jsonl"
NOTES = "annotations/judges/generations.notes.json"
CHUNK = 64

Flag = Literal["generations", "scored"]
"""Which sentences: those that the span judge gave the fitted label, or those that the score judge finds something in
(a keyword, the label)."""


@dataclass(frozen=True)
class Judges:
    """The judges of a run, and the label that its vector is fitted to."""

    spans: PluginSpec
    scores: PluginSpec
    label: str

    @classmethod
    def of(cls, run: Path) -> Self:
        """As the run's recipe names them. Raises: SteerkitError when it lacks one."""
        recipe = read_recipe(run)
        missing = [name for name in ("span_judge", "score_judge", "fitter") if name not in recipe]
        if missing:
            raise SteerkitError(
                f"{run / 'recipe.yaml'}: has no {' and no '.join(missing)}: sentences of generations are found by a "
                "run's judges and its fitter's label; label the spans of its traces (--what spans)"
            )
        spans, scores = (PluginSpec.model_validate(recipe[name]) for name in ("span_judge", "score_judge"))
        return cls(spans, scores, recipe["fitter"]["label"])

    def built(self) -> tuple[Judge, Judge]:
        """The span judge and the score judge."""
        return registry.build("judges", self.spans), registry.build("judges", self.scores)

    def names(self) -> dict[Flag, str]:
        """What the judges' labels go by; one name for one judge that labels for both."""
        span_judge, score_judge = self.built()
        spans, scores = span_judge.name, score_judge.name
        same = spans == scores and span_judge.config == score_judge.config and shares_labels(score_judge)
        return {"generations": spans, "scored": scores if scores != spans or same else f"{scores}:score"}


def generation_tasks(run: Path, flag: Flag, context: int) -> list[Task]:
    """Flagged sentences of all generations, steered and not.

    Raises:
        SteerkitError: there are no generations yet, no sentence is flagged, or a judge can't be had.
    """
    judges = Judges.of(run)
    spans = judged_generations(run)
    judge, label = judges.names()[flag], judges.label
    if flag == "scored":
        _check_flags(judges.built()[1])
    flagged = [span for span in spans if span.judge == judge and span.label == label]
    if not flagged:
        raise SteerkitError(f"{run}: no sentence of its generations is {label!r} by {judge}: there is nothing to check")
    return tasks_of(flagged, spans, generation_texts(run), context)


def judged_generations(run: Path) -> list[Span]:
    """Every sentence of every generation, once by each of the run's judges. Token numbers are -1: not known here."""
    judges, texts = Judges.of(run), generation_texts(run)
    known = [spec_identity("judges", judge).key() for judge in (judges.spans, judges.scores)]
    key = digest([[file_digest(path) for path in generation_files(run)], known, judges.label])
    notes, path = run / NOTES, run / JUDGED
    if notes.is_file() and path.is_file() and key in notes.read_text(encoding="utf-8"):
        return read_rows(path, Span)
    spans = _judge(run, texts, judges)
    write_rows(path, spans)
    counts = Counter(f"{span.judge}: {span.label}" for span in spans)
    write_json(notes, {"key": key, "labels": dict(counts.most_common())})
    return spans


def _judge(run: Path, texts: dict[str, Text], judges: Judges) -> list[Span]:
    span_judge, score_judge = judges.built()
    for judge in (span_judge, score_judge):
        judge.open(run / "judges" / judge.name, lambda done, total: None)  # the answers that the run paid for
        refuse_asking(judge, [text.text for text in texts.values()], run)
    names, label = judges.names(), judges.label
    found: list[Span] = []
    with _progress(len(texts)) as advance:
        for chunk in _chunks(list(texts.items())):
            spans = _labelled(span_judge, chunk, names["generations"])
            found += spans
            if names["scored"] == names["generations"]:
                pass
            elif shares_labels(score_judge):
                found += _labelled(score_judge, chunk, names["scored"])
            elif (metric := metrics_of(score_judge)[0]).of:
                values = judging.score(score_judge, [texts[s.trace_id].text[s.start : s.end] for s in spans])
                found += [
                    replace(s, judge=names["scored"], label=label if value.get(metric.name, 0.0) > 0 else OTHER)
                    for s, value in zip(spans, values, strict=True)
                ]
            advance(len(chunk))
    return found


def _labelled(judge: Judge, chunk: Sequence[tuple[str, Text]], name: str) -> list[Span]:
    """A judge's spans of texts."""
    found = judging.annotate(judge, [text.text for _, text in chunk])
    return [
        Span(trace_id=text, label=label, judge=name, start=start, end=end, first=-1, last=-1)
        for (text, _), spans in zip(chunk, found, strict=True)
        for start, end, label in spans
    ]


def _check_flags(judge: Judge) -> None:
    """Raises: SteerkitError when a judge's numbers don't say of a sentence that it is one."""
    metric = metrics_of(judge)[0]
    if not metric.of:
        raise SteerkitError(
            f"--what scored: the score judge {judge.name!r} gives {metric.unit} ({metric.name}), which picks out no "
            "sentences; label those of the span judge (--what generations)"
        )


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
