"""Labels out of a run, and into another: Span rows, whose judge is ``human:NAME``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from steerkit.annotate.agreement import fresh_labels, settled
from steerkit.annotate.generations import read_generations
from steerkit.annotate.run_texts import run_spans, run_texts
from steerkit.annotate.store import (
    ADJUDICATED,
    HUMAN,
    Row,
    Store,
    annotators,
    check_name,
    folder_of,
    labels_of,
    spans_of,
)
from steerkit.annotate.tasks import Place, place_of
from steerkit.data.trace import Span, read_rows
from steerkit.errors import InputError, Problem, SteerkitError, nearest
from steerkit.store.files import atomic


def as_jsonl(rows: Iterable[Row]) -> str:
    """An annotator's export, as text."""
    return _text(map(asdict, spans_of(rows)))


def export(run: Path, to: Path, annotator: str | None = None, field: str | None = None) -> tuple[int, int]:
    """Write one annotator's labels, or everybody's and what was settled between them. A judge's name tells them apart.

    Args:
        field: field of the generations (a label of their condition: the strength, say) that their labels carry along.

    Returns:
        labels written, and labels left out because the run's texts have changed since.

    Raises:
        SteerkitError: there are no labels, generations have no such field, or the file is there already.
    """
    names = [*annotators(run), *([ADJUDICATED] if (folder_of(run) / f"{ADJUDICATED}.jsonl").exists() else [])]
    if annotator is not None and annotator not in names:
        raise SteerkitError(f"{run}: {annotator!r} has labelled nothing there; {nearest(annotator, names)}")
    if to.exists():
        raise SteerkitError(f"{to}: is there already; name another file")
    texts = run_texts(run)
    found, left_out = [], 0
    for name in names if annotator is None else [annotator]:
        fresh, stale = settled(run, texts) if name == ADJUDICATED else fresh_labels(run, name, texts)
        found += fresh
        left_out += stale
    if not found:
        raise SteerkitError(f"{run}: has no labels yet; begin with `steerkit annotate {run} --annotator NAME`")
    more = _column(run, field) if field else {}
    with atomic(to) as temporary:
        temporary.write_text(_text({**asdict(s), **more.get(s.trace_id, {})} for s in found), encoding="utf-8")
    return len(found), left_out


def _text(rows: Iterable[Row]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _column(run: Path, field: str) -> dict[str, Row]:
    """One field of each generation that has it, by the generation's id."""
    rows = {row.id: row.to_json() for row in read_generations(run)}
    known = {name for row in rows.values() for name in row} - set(Span.__dataclass_fields__)
    if field not in known:
        raise SteerkitError(
            f"--with {field}: the generations of {run} have no such field; {nearest(field, sorted(known))}"
        )
    return {name: {field: row[field]} for name, row in rows.items() if field in row}


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
        texts = run_texts(run)
        counts = {}
        for name, store in stores.items():
            kept = labels_of(store.rows)
            new = [place for place in wanted[name] if place not in kept]
            store.extend(
                [
                    {
                        **asdict(there[place]),
                        "label": wanted[name][place],
                        "judge": store.judge,
                        "digest": texts[place[0]].digest,
                        "action": "import",
                    }
                    for place in new
                ]
            )
            counts[name] = len(new)
        return counts
