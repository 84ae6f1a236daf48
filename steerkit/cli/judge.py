"""`steerkit judge`: import annotations, and compare judges."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console

    from steerkit.data.chat_format import ChatFormat
    from steerkit.data.importing import ImportedSpans
    from steerkit.data.trace import Prompt, Span, Trace

app = typer.Typer(help="Import annotations of traces, and compare judges.", no_args_is_help=True)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help='jsonl of {"id", "prompt", "trace", "annotated": tagged text}.')],
    to: Annotated[Path, typer.Option("--to", help="Folder for traces.jsonl, spans.jsonl and spans.notes.json.")],
    traces: Annotated[
        Path | None, typer.Option(help="jsonl of the traces, where the annotations stand in a file of their own.")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            "--tokenizer",
            "--model",
            help="Model whose tokenizer places the spans. Without it they are placed when a run reads them.",
        ),
    ] = None,
    taxonomy: Annotated[
        str | None, typer.Option(help="Legal labels: a YAML list, or a shipped one's name (reasoning by default).")
    ] = None,
    labels: Annotated[str | None, typer.Option(help="Legal labels, separated by commas.")] = None,
    min_coverage: Annotated[
        float, typer.Option(min=0, max=1, help="Leave out traces less covered by their annotation (share, 0 to 1).")
    ] = 0.0,
    name: Annotated[str, typer.Option(help="The annotator's name.")] = "annotation",
    think_end: Annotated[
        str, typer.Option(help="Text that ends the reasoning; spans behind it are left out. '' keeps them.")
    ] = "</think>",
    chat: Annotated[str, typer.Option(help="Prompts through the chat template: auto, yes or no.")] = "auto",
) -> None:
    """Find an annotator's tagged sections again in the traces; write steerkit's own traces and spans."""
    from rich.console import Console

    from steerkit.data.chat_format import in_words
    from steerkit.data.importing import read_spans, read_traces
    from steerkit.data.trace import write_rows
    from steerkit.errors import SteerkitError
    from steerkit.judging.taxonomy import DEFAULT, load_taxonomy
    from steerkit.store.files import write_json

    console = Console(markup=False, emoji=False)
    files = [to / n for n in ("traces.jsonl", "spans.jsonl", "spans.notes.json")]
    taken = [path for path in files if path.exists()]
    if taken:
        raise SteerkitError(f"{taken[0]}: is there already; name another folder with --to")
    if labels and taxonomy:
        raise SteerkitError("--labels and --taxonomy both name the legal labels; give one of them")
    legal = _words(labels) if labels else list(load_taxonomy(taxonomy or DEFAULT))
    chats = _chats(tokenizer, chat)
    encode = _encoder(chats, think_end)
    with console.status("reading traces and aligning their annotations"):
        found = read_traces(traces or file, encode)
        imported = read_spans(file, found, legal, judge=name, min_coverage=min_coverage)
        if not imported.notes:
            raise SteerkitError(f"{file}: holds no annotations; each line is a JSON object with 'id' and 'annotated'")
        used = [trace for trace in found if trace.id not in set(imported.left_out)]
        write_rows(files[0], used)
        write_rows(files[1], imported.spans)
        ids = {"min_coverage": min_coverage, "left_out": imported.left_out, "coverage": imported.coverage}
        opened = {"opened_twice": twice} if chats and (twice := chats.opened_twice(used)) else {}
        write_json(files[2], {"labels": _counts(imported.spans), **imported.notes, **opened, **ids})
    _print_imported(imported, used, console)
    for line in in_words(opened):
        console.print(line)
    console.print(f"{to}: traces.jsonl, spans.jsonl, spans.notes.json", highlight=False)


@app.command()
def compare(
    files: Annotated[
        list[str],
        typer.Argument(help="spans.jsonl of one judge or several, as FILE or NAME=FILE; the first's are the units."),
    ],
    judge: Annotated[
        list[str] | None,
        typer.Option("--judge", help="Judge plugin to ask live: NAME or 'NAME:{option: value}' (YAML). Repeatable."),
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="The judge whose spans are the units; the first one by default.")
    ] = None,
    traces: Annotated[
        Path | None, typer.Option(help="Traces of the spans; traces.jsonl beside the first file by default.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Labels that count, separated by commas; the rest is taken for `other`.")
    ] = None,
    by: Annotated[str, typer.Option(help="Field of the first file's rows to group by, e.g. strength.")] = "",
    uncovered: Annotated[
        str, typer.Option(help="Units that a judge didn't label: other (the label), or leave-out (of its pairs).")
    ] = "other",
    out: Annotated[Path | None, typer.Option("--out", help=".csv or .json to write.")] = None,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.999, help="Level of the intervals.")] = 0.95,
    resamples: Annotated[int, typer.Option(min=100, help="Bootstrap resamples of whole traces.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
) -> None:
    """Precision, recall and F1 by label, Cohen's kappa, Krippendorff's alpha, and confusion tables.

    The units are the reference judge's spans. Another judge's label of a unit is the one that covers most of its
    characters. A judge asked live gets each unit's text.
    """
    from rich.console import Console

    from steerkit.errors import SteerkitError, nearest
    from steerkit.judging.agreement_tables import print_agreement, write_agreement
    from steerkit.judging.comparing import compare_judges
    from steerkit.stats.agreement import agreement

    ways = ("other", "leave-out")
    if uncovered not in ways:
        raise SteerkitError(f"--uncovered {uncovered}: {nearest(uncovered, ways)}")
    if out and out.suffix not in (".csv", ".json"):
        raise SteerkitError(f"{out}: agreement is written as .csv or .json; name such a file")
    console = Console(markup=False, emoji=False)
    with console.status("comparing judges"):
        units = compare_judges(
            files,
            judge or (),
            reference=reference,
            traces=traces,
            labels=_words(labels) if labels else None,
            by=by,
            uncovered_is_other=uncovered == "other",
        )
        found = {
            group: agreement(
                part.judged, part.clusters, labels=part.labels, confidence=confidence, resamples=resamples, seed=seed
            )
            for group, part in units.by_group().items()
        }
        if out:
            write_agreement(out, found)
    for line in units.remarks:
        console.print(line)
    for group, each in found.items():
        if by:
            console.rule(f"{by} {group}")
        print_agreement(each, console, confidence)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _counts(spans: Sequence[Span]) -> dict[str, int]:
    from collections import Counter

    return dict(Counter(span.label for span in spans).most_common())


def _chats(tokenizer: str | None, mode: str) -> ChatFormat | None:
    """How the named tokenizer formats prompts. Raises: SteerkitError when there is no such tokenizer or mode."""
    from typing import cast, get_args

    from steerkit.data.chat_format import ChatFormat, Mode
    from steerkit.errors import SteerkitError, nearest
    from steerkit.models.loading import load_tokenizer

    if mode not in get_args(Mode):
        raise SteerkitError(f"--chat {mode}: {nearest(mode, get_args(Mode))}")
    return None if tokenizer is None else ChatFormat(load_tokenizer(tokenizer), cast("Mode", mode))


def _encoder(chats: ChatFormat | None, marker: str) -> Callable[[Prompt, str], Trace]:
    from functools import partial

    from steerkit.data.tokens import encode_trace, plain_trace

    if chats is None:
        return partial(plain_trace, marker=marker)
    return partial(encode_trace, chats.tokenizer, marker=marker, chats=chats)


def _print_imported(imported: ImportedSpans, used: Sequence[Trace], console: Console) -> None:
    import numpy as np
    from rich.table import Table

    notes, shares = imported.notes, np.array([*imported.coverage.values()])
    labelled: dict[str, set[str]] = {}
    for span in imported.spans:
        labelled.setdefault(span.label, set()).add(span.trace_id)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("label", "spans", "traces"):
        table.add_column(title, justify="left" if title == "label" else "right")
    for label, n in _counts(imported.spans).items():
        table.add_row(label, f"{n:,}", f"{len(labelled[label]):,}")
    table.add_row("all", f"{len(imported.spans):,}", f"{len(used):,}", style="bold")
    console.print(table)
    facts = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    points = ", ".join(f"{q} % of traces under {np.quantile(shares, q / 100):.1%}" for q in (5, 25, 50))
    rejected = ", ".join(f"{label} {n:,}" for label, n in notes["rejected_spans"].items())
    facts.add_row("coverage", f"mean {shares.mean():.2%}; least {shares.min():.1%}, {points}")
    facts.add_row("located as quoted", f"{notes['exact_spans']:,}")
    facts.add_row("located with small edits", f"{notes['edited_spans']:,}")
    facts.add_row(
        "not located",
        f"{notes['unlocated_spans']:,} ({notes['overlapping_spans']:,} overlap others, "
        f"{notes['misplaced_spans']:,} stand elsewhere)",
    )
    facts.add_row("empty", f"{notes['empty_spans']:,}")
    facts.add_row("labels that don't exist", f"{sum(notes['rejected_spans'].values()):,} {rejected}".rstrip())
    facts.add_row("behind the reasoning's end", f"{notes['answer_spans']:,}")
    facts.add_row("traces left out", f"{notes['left_out_traces']:,} with {notes['left_out_spans']:,} spans")
    facts.add_row("traces without annotation", f"{notes['unannotated_traces']:,}")
    console.print(facts)
