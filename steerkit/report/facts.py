"""What the run was made of: prompts, traces, spans, models, versions, times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from steerkit.data.chat_format import in_words
from steerkit.findings import Table
from steerkit.models.setup import in_words as setup_in_words
from steerkit.report import words
from steerkit.report.run import Run

NOTES = {
    "annotated_traces": "annotated traces",
    "mean_coverage": "mean coverage of a trace by its annotation",
    "edited_spans": "annotated spans found with small edits",
    "unlocated_spans": "annotated spans not found in the trace",
    "answer_spans": "annotated spans after the end of the reasoning, left out",
    "left_out_traces": "annotated traces left out because their coverage is too low",
    "empty_spans": "annotated spans without text",
}
COSTS = (
    ("input_tokens", ",", "tokens read"),
    ("output_tokens", ",", "written"),
    ("dollars", ",.2f", "dollars"),
)


def data_lines(run: Run) -> list[str]:
    """Prompts and traces, and what was lost on the way, a sentence each."""
    return [*_prompts(run), *_spans(run)]


def _prompts(run: Run) -> Iterator[str]:
    splits = Counter(str(row.get("split", "")) for row in run.jsonl("prompts.jsonl"))
    if splits:
        yield "Prompts, in disjoint splits: " + ", ".join(f"{n:,} {name}" for name, n in splits.items()) + "."
    for key in ("chats", "opened_twice"):
        yield from in_words(_logged(run, key))
    traces = _logged(run, "traces")
    if traces:
        yield f"Traces: {traces['traces']:,}, {words.number(traces.get('mean_tokens'), 1)} tokens on average."


def _spans(run: Run) -> Iterator[str]:
    notes = run.json("spans.notes.json")
    for name, text in NOTES.items():
        if name in notes:
            value = notes[name]
            yield f"{text.capitalize()}: " + (f"{value:.1%}" if name == "mean_coverage" else f"{value:,}") + "."
    if "pairs" in notes:
        lost = ", ".join(f"{reason} {n:,}" for reason, n in notes.get("lost_pairs", {}).items())
        yield f"Pairs of traces that are kept: {notes['kept_pairs']:,} of {notes['pairs']:,}{lost and f' ({lost})'}."
    if notes.get("answered_by"):
        by = ", ".join(f"{name} ({n:,} answers)" for name, n in notes["answered_by"].items())
        cost = [f"{notes[key]:{form}} {unit}" for key, form, unit in COSTS if key in notes]
        yield f"Spans labelled by {by}{': ' * bool(cost)}{', '.join(cost)}."
    if notes.get("unusable_answers"):
        lost = ", ".join(f"{kind} {n:,}" for kind, n in notes["unusable_answers"].items())
        yield f"Traces left out because the judge's answer was not usable: {lost}."
    if notes.get("rejected_spans"):
        invented = ", ".join(f"{label} {n:,}" for label, n in notes["rejected_spans"].items())
        yield f"Annotated spans left out because their label doesn't exist: {invented}."


def span_table(run: Run) -> Table | None:
    """Spans by label, and how many of their windows were counted and dropped for each model."""
    labels: dict[str, int] = run.json("spans.notes.json").get("labels", {})
    logged = [row for row in run.jsonl("log.jsonl") if "dropped_windows" in row and "counted" in row]
    by_model = {str(row.get("model", row.get("role", ""))): row for row in logged}
    if not labels:
        return None
    headings = ["label", "spans"]
    for model in by_model:
        headings += [f"windows counted, {model}", f"windows dropped, {model}"]
    rows = []
    for label, spans in labels.items():
        cells = [f"{row[key].get(label, 0):,}" for row in by_model.values() for key in ("counted", "dropped_windows")]
        rows.append((label, f"{spans:,}", *cells))
    note = "A window is dropped when it reaches beyond the start or the end of the sequence." if by_model else ""
    return Table(headings=tuple(headings), rows=tuple(rows), title="Spans by label", note=note)


def same_models(run: Run) -> list[str]:
    """A sentence for each set of names that stand for one model."""
    return [
        f"{_listed(names)} are the same model in this run, so nothing here is about a difference between them."
        for names in run.made_with.get("same_models") or []
    ]


def _listed(names: list[str]) -> str:
    quoted = [f"“{name}”" for name in names]
    return " and ".join([", ".join(quoted[:-1]), quoted[-1]] if len(quoted) > 1 else quoted)


def made_with(run: Run) -> list[tuple[str, str]]:
    """Models with fingerprints, versions, plugins and seed, as name and value."""
    made = run.made_with
    found = [(f"model {name}", _model(model)) for name, model in (made.pop("models", None) or {}).items()]
    made.pop("same_models", None)
    if setup := _logged(run, "attention"):
        found.append(("generated on", setup_in_words(setup)))
    for key, value in made.items():
        if isinstance(value, Mapping) and key in ("versions", "plugins"):
            found += [(str(name), str(version)) for name, version in value.items()]
        else:
            found.append((str(key).replace("_", " "), _value(value)))
    return found


def _model(model: Mapping[str, Any]) -> str:
    shape = f", {model['blocks']} blocks of width {model['width']}" if {"blocks", "width"} <= set(model) else ""
    weights = f"; weights {model['fingerprint']}" if model.get("fingerprint") else ""
    return f"{model.get('model', words.NOTHING)}{shape}{weights}"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {one}" for key, one in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def step_times(run: Run) -> Table | None:
    """Seconds of each step. Without the report's own, so that the same run always gives the same page."""
    steps = {name: step for name, step in run.json("state.json").get("steps", {}).items() if name != "report"}
    rows = tuple((name, str(step["key"]), words.number(step["seconds"], 1)) for name, step in steps.items())
    headings = ("step", "fingerprint of its inputs", "seconds")
    return Table(headings=headings, rows=rows, left=2, title="Time by step") if rows else None


def _logged(run: Run, key: str) -> dict[str, Any]:
    """The last logged line with a key."""
    return next((row for row in reversed(run.jsonl("log.jsonl")) if key in row), {})
