"""What the run was made of: prompts, traces, spans and windows by label, models, versions, times."""

from __future__ import annotations

from collections import Counter
from typing import Any

from steerkit.data.chat_format import in_words
from steerkit.models.setup import in_words as setup_in_words
from steerkit.report import words
from steerkit.report.run import Run
from steerkit.report.tabulate import Table

NOTES = {
    "annotated_traces": "annotated traces",
    "mean_coverage": "mean coverage of a trace by its annotation",
    "edited_spans": "annotated spans found with small edits",
    "unlocated_spans": "annotated spans not found in the trace",
    "answer_spans": "annotated spans behind the end of the reasoning, left out",
    "left_out_traces": "annotated traces left out, their coverage too low",
    "empty_spans": "annotated spans without text",
}
COSTS = (
    ("input_tokens", ",", "tokens read"),
    ("output_tokens", ",", "written"),
    ("dollars", ",.2f", "dollars"),
)


def data_lines(run: Run) -> list[str]:
    """Prompts and traces, and what was lost on the way, a line each."""
    splits = Counter(str(row.get("split", "")) for row in run.jsonl("prompts.jsonl"))
    lines = []
    if splits:
        lines.append("Prompts, disjoint: " + ", ".join(f"{n:,} to {name}" for name, n in splits.items()) + ".")
    lines += [line for key in ("chats", "opened_twice") for line in in_words(_logged(run, key))]
    traces = _logged(run, "traces")
    if traces:
        lines.append(f"Traces: {traces['traces']:,}, {words.number(traces.get('mean_tokens'), 1)} tokens in the mean.")
    notes = run.json("spans.notes.json")
    for name, text in NOTES.items():
        if name in notes:
            value = notes[name]
            lines.append(f"{text.capitalize()}: " + (f"{value:.1%}" if name == "mean_coverage" else f"{value:,}") + ".")
    if notes.get("answered_by"):
        by = ", ".join(f"{name} ({n:,} answers)" for name, n in notes["answered_by"].items())
        cost = [f"{notes[key]:{form}} {unit}" for key, form, unit in COSTS if key in notes]
        lines.append(f"Spans labelled by {by}{': ' * bool(cost)}{', '.join(cost)}.")
    if notes.get("unusable_answers"):
        lost = ", ".join(f"{kind} {n:,}" for kind, n in notes["unusable_answers"].items())
        lines.append(f"Traces left out, the judge's answer not being usable: {lost}.")
    if notes.get("rejected_spans"):
        invented = ", ".join(f"{label} {n:,}" for label, n in notes["rejected_spans"].items())
        lines.append(f"Annotated spans with a label that doesn't exist, left out: {invented}.")
    return lines


def span_table(run: Run) -> Table | None:
    """Spans by label, and the windows of them that were counted and dropped for each model."""
    labels: dict[str, int] = run.json("spans.notes.json").get("labels", {})
    by_role = {row["role"]: row for row in run.jsonl("log.jsonl") if "dropped_windows" in row}
    if not labels:
        return None
    headings = ["label", "spans"]
    for role in by_role:
        headings += [f"windows counted, {role}", f"windows dropped, {role}"]
    rows = []
    for label, spans in labels.items():
        cells = [f"{row[key].get(label, 0):,}" for row in by_role.values() for key in ("counted", "dropped_windows")]
        rows.append((label, f"{spans:,}", *cells))
    strong = frozenset(i for i, row in enumerate(rows) if row[0] == run.label)
    return Table(tuple(headings), rows, 1, strong)


def basis(run: Run) -> str:
    """What stands under every figure: windows in D₊ and D, seed, samples."""
    role = next((row for row in reversed(run.jsonl("log.jsonl")) if "dropped_windows" in row), None)
    parts = []
    if role:
        counted, dropped = role["counted"], sum(role["dropped_windows"].values())
        parts.append(f"D₊ {counted.get(run.label, 0):,} windows, D {sum(counted.values()):,}, {dropped:,} dropped")
    samples = run.recipe.get("samples", 1)
    parts.append(f"{samples} sample{'s' if samples != 1 else ''} a prompt and condition, seed {run.recipe.get('seed')}")
    return "; ".join(parts)


def made_with(run: Run) -> list[tuple[str, str]]:
    """Models with fingerprints, plugins and versions, as name and value."""
    made: dict[str, Any] = run.recipe.get("made_with", {})
    found = []
    for role in ("base", "reasoning"):
        model = made.get(role)
        if model:
            shape = f", {model['blocks']} blocks of width {model['width']}" if "blocks" in model else ""
            found.append((f"{role} model", f"{model['model']}{shape}; weights {model['fingerprint']}"))
    if setup := _logged(run, "attention"):
        found.append(("generated on", setup_in_words(setup)))
    if made:
        if "sampling" in made:
            of = ", as the reasoning model's generation_config says" if run.recipe.get("sampling") == "model" else ""
            found.append(("sampling", ", ".join(f"{key} {value}" for key, value in made["sampling"].items()) + of))
        found.append(("recipe", f"{made.get('recipe', words.NOTHING)}; seed {made.get('seed', words.NOTHING)}"))
        found += [(name, str(version)) for name, version in made.get("plugins", {}).items()]
        found += [(name, str(version)) for name, version in made.get("versions", {}).items()]
        found.append(("python", str(made.get("python", words.NOTHING))))
    return found


def stage_times(run: Run) -> Table | None:
    """Seconds a stage. Without the report's own, so that the same run always gives the same page."""
    stages = {k: v for k, v in run.json("state.json").get("stages", {}).items() if k != "report"}
    rows = [(name, words.number(v["seconds"], 1), str(v["key"])) for name, v in stages.items()]
    return Table(("stage", "seconds", "fingerprint of its inputs"), rows, 1) if rows else None


def _logged(run: Run, key: str) -> dict[str, Any]:
    """The last logged line with a key."""
    return next((row for row in reversed(run.jsonl("log.jsonl")) if key in row), {})
