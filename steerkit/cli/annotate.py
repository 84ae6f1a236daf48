"""`steerkit annotate`: labels by people, on a local page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from steerkit.annotate.tasks import Task

WHAT = ("spans", "generations", "scored")


def annotate(
    run: Annotated[Path, typer.Argument(help="Run folder, e.g. runs/backtracking.")],
    annotator: Annotated[
        str | None, typer.Option(help="Who labels: a name that your labels are kept under, RUN/annotations/NAME.jsonl.")
    ] = None,
    what: Annotated[
        str,
        typer.Option(
            help="What is labelled: spans (of the traces), generations (their sentences that the span judge gave the "
            "fitted label) or scored (those that the score judge's share is above 0 in, as sentences with a keyword)."
        ),
    ] = "spans",
    sample: Annotated[
        int | None, typer.Option(min=1, help="Label this many, drawn at random, the same for every annotator.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the sample and of the order.")] = 0,
    context: Annotated[int, typer.Option(min=0, help="Sentences shown before and after the one to label.")] = 3,
    taxonomy: Annotated[
        str, typer.Option(help="Labels and their glosses: a shipped taxonomy's name, or a YAML file.")
    ] = "reasoning",
    adjudicate: Annotated[
        bool,
        typer.Option(
            "--adjudicate", help="Decide the spans on which annotators disagree; exports have the result too."
        ),
    ] = False,
    export: Annotated[
        Path | None, typer.Option(help="Write the labels (of --annotator, or of all) to this jsonl file, and leave.")
    ] = None,
    with_field: Annotated[
        str | None,
        typer.Option("--with", help="Field of the generations that exported labels carry, e.g. strength, to group by."),
    ] = None,
    import_from: Annotated[
        Path | None, typer.Option("--import", help="Take the labels of an exported file into this run, and leave.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port of the page; 0 takes a free one.")] = 0,
    open_page: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in a browser; its address is printed either way.")
    ] = True,
) -> None:
    """Label spans by hand on a page of this computer's own: blinded, shuffled, one key a label, kept at every key."""
    from steerkit.errors import SteerkitError, nearest, readable

    if not run.is_dir():
        raise SteerkitError(f"{run}: no such run folder; give the one that `recipe run` printed")
    if sum(map(bool, (export, import_from, adjudicate))) > 1:
        raise SteerkitError("--export, --import and --adjudicate: one at a time")
    if what not in WHAT:
        raise SteerkitError(f"--what {what}: {nearest(what, WHAT)}")
    with readable(run):
        if export:
            return _export(run, export, annotator, with_field)
        from steerkit.annotate.serving import labels_for, serve
        from steerkit.annotate.store import ADJUDICATED, check_name

        labels = labels_for(run, taxonomy)
        if import_from:
            return _import(run, import_from, [*labels, "other"])
        if adjudicate:
            name, tasks = ADJUDICATED, _disagreements(run, context)
        elif annotator:
            check_name(run, annotator)
            name, tasks = annotator, _tasks(run, what, context, sample, seed)
        else:
            raise SteerkitError("who labels? Give a name with --annotator NAME; each annotator has a file of their own")
        if tasks:
            serve(run, name, tasks, labels, seed=seed, port=port, open_page=open_page, say=typer.echo)
        return None


def _tasks(run: Path, what: str, context: int, size: int | None, seed: int) -> list[Task]:
    from steerkit.annotate.judged_generations import generation_tasks
    from steerkit.annotate.tasks import sample, trace_tasks

    found = trace_tasks(run, context) if what == "spans" else generation_tasks(run, what, context)  # type: ignore[arg-type]
    return sample(found, size, seed)


def _disagreements(run: Path, context: int) -> list[Task]:
    from steerkit.annotate.agreement import disagreements

    tasks, shared = disagreements(run, context)
    typer.echo(f"{len(tasks)} of {shared} spans that two or more have labelled have different labels")
    return tasks


def _export(run: Path, to: Path, annotator: str | None, field: str | None) -> None:
    from steerkit.annotate.exchange import export

    written, stale = export(run, to, annotator, field)
    typer.echo(f"{written} labels -> {to}")
    if stale:
        typer.echo(f"{stale} labels left out: the texts that they are of have changed since")


def _import(run: Path, path: Path, labels: list[str]) -> None:
    from steerkit.annotate.exchange import import_labels

    for name, count in import_labels(run, path, labels).items():
        typer.echo(f"{name}: {count} new labels")
