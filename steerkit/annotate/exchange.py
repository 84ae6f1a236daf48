"""Labels out of a run, and into another: Span rows, whose judge is ``human:NAME``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from steerkit.annotate.pool import fresh_labels, run_spans, run_texts
from steerkit.annotate.store import (
    ADJUDICATED,
    HUMAN,
    Row,
    Store,
    annotators,
    check_name,
    folder_of,
    labels_of,
    read_log,
)
from steerkit.annotate.tasks import Place, place_of
from steerkit.errors import InputError, Problem, SteerkitError, nearest
from steerkit.files import digest
from steerkit.trace import Span, from_json, read_rows, write_rows


def spans_of(rows: Iterable[Row]) -> list[Span]:
    """The labelled spans of an annotation file's rows, by text and place."""
    return [from_json(Span, row) for _, row in sorted(labels_of(rows).items())]


def as_jsonl(rows: Iterable[Row]) -> str:
    """An export, as text."""
    return "".join(json.dumps(asdict(span), ensure_ascii=False) + "\n" for span in spans_of(rows))


def export(run: Path, to: Path, annotator: str | None = None) -> tuple[int, int]:
    """Write one annotator's labels, or everybody's and the decisions on them. A judge's name tells them apart.

    Returns:
        labels written, and labels left out because the run's texts have changed since.

    Raises:
        SteerkitError: there are no labels, or the file is there already.
    """
    names = [*annotators(run), *([ADJUDICATED] if (folder_of(run) / f"{ADJUDICATED}.jsonl").exists() else [])]
    if annotator is not None and annotator not in names:
        raise SteerkitError(f"{run}: {annotator!r} has labelled nothing there; {nearest(annotator, names)}")
    if to.exists():
        raise SteerkitError(f"{to}: is there already; name another file")
    texts = run_texts(run)
    found, left_out = [], 0
    for name in names if annotator is None else [annotator]:
        fresh, stale = fresh_labels(run, name, texts)
        found += [s for s in spans_of(read_log(folder_of(run) / f"{name}.jsonl")) if place_of(s) in fresh]
        left_out += stale
    if not found:
        raise SteerkitError(f"{run}: has no labels yet; begin with `steerkit annotate {run} --annotator NAME`")
    write_rows(to, found)
    return len(found), left_out


def import_labels(run: Path, path: Path, labels: Sequence[str]) -> dict[str, int]:
    """Take the labels that another folder exported into this run; all of them or none.

    Returns:
        annotator → labels that are new here.

    Raises:
        InputError: spans that don't exist here, labels that the taxonomy lacks, judges that aren't people, labels that
            contradict the same annotator's here.
    """
    rows = read_rows(path, Span)
    there = {place_of(span): span for span in run_spans(run, {row.trace_id for row in rows})}
    with ExitStack() as held:
        stores: dict[str, Store] = {}
        wanted: dict[str, dict[Place, str]] = {}
        problems = []
        for number, row in enumerate(rows, 1):
            where, name, place = f"{path}:{number}", row.judge.removeprefix(HUMAN), place_of(row)
            own = there.get(place)
            if not row.judge.startswith(HUMAN):
                problems.append(Problem(where, f"judge {row.judge!r} is no person", f"people are {HUMAN}NAME"))
                continue
            if row.label not in labels:
                problems.append(
                    Problem(where, f"label {row.label!r} is not in the taxonomy", nearest(row.label, labels))
                )
                continue
            if own is None or (own.first, own.last) != (row.first, row.last):
                problems.append(Problem(where, f"{run} has no such span, {row.start} to {row.end} of {row.trace_id!r}"))
                continue
            if name not in stores:
                if name != ADJUDICATED:
                    check_name(run, name)
                stores[name] = held.enter_context(Store(run, name))
                wanted[name] = {p: r["label"] for p, r in labels_of(stores[name].rows).items()}
            if wanted[name].setdefault(place, row.label) != row.label:
                problems.append(Problem(where, f"{name!r} has labelled this span {wanted[name][place]!r} already"))
        if problems:
            raise InputError(str(path), problems)
        texts = {name: digest(text.text) for name, text in run_texts(run).items()}
        counts = {}
        for name, store in stores.items():
            kept = labels_of(store.rows)
            new = [place for place in wanted[name] if place not in kept]
            store.extend([
                {**asdict(there[place]), "label": wanted[name][place], "judge": store.judge,
                 "digest": texts[place[0]], "action": "import"} for place in new
            ])  # fmt: skip
            counts[name] = len(new)
        return counts
