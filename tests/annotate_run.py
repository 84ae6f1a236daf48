"""A run folder small enough to write by hand, for the annotation tests; `served` is a page of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import yaml

from steerkit.annotate.server import Server
from steerkit.annotate.session import Session
from steerkit.annotate.store import Store
from steerkit.annotate.tasks import shuffled, trace_tasks
from steerkit.data.generated import Generation
from steerkit.data.trace import Prompt, Span, Trace, write_rows
from steerkit.judging.taxonomy import load_taxonomy
from steerkit.store.files import write_jsonl

EVIL = "<img src=x onerror=\"document.title='owned'\"> </mark><script>document.title='owned'</script> & &amp; so."
TRACES = {
    "t0": "First 😀 we add. Wait, is that 4? So it is 4.",
    "t1": f"We try 2. {EVIL} Hmm, no.",
    "t2": "One. Two. Three. Four. Five. Six. Seven. Eight. Nine. Ten.",
}
PROMPTS = {"q0": "What is it?", "q1": "And that?"}
NONE, DOM = {"model": "base", "strength": 0.0}, {"vector": "base", "strength": 8.0}
GENERATIONS = [
    Generation(
        split=split,
        condition=name,
        labels=labels,
        added_norm=float(labels["strength"]),
        prompt_id=prompt,
        sample=0,
        finished=True,
        text=text,
        ids=(),
        starts=(),
    )
    for split, name, labels, prompt, text in (
        ("test", "none", NONE, "q0", "It is 4. Wait, 5."),
        ("test", "dom", DOM, "q0", "Hmm. Wait. Wait. So 4.</think> Wait: 4."),
        ("choose", "dom", DOM, "q1", "So it is. Wait, no."),
    )
]


def sentences(text: str) -> list[tuple[int, int]]:
    return [match.span() for match in re.finditer(r"[^ ].*?[.?](?= |$)", text)]


def write_run(folder: Path) -> Path:
    """Traces with a span a sentence (judge `rules`), generations of two conditions, prompts and a recipe."""
    folder.mkdir()
    write_rows(
        folder / "traces.jsonl", [Trace(id=k, prompt_id=k, prompt=f"Why {k}?", text=v) for k, v in TRACES.items()]
    )
    spans = [
        Span(
            trace_id=name,
            label="backtracking" if re.match("Wait|Hmm", text[a:b]) else "deduction",
            judge="rules",
            start=a,
            end=b,
            first=i,
            last=i,
        )
        for name, text in TRACES.items()
        for i, (a, b) in enumerate(sentences(text))
    ]
    write_rows(folder / "spans.jsonl", spans)
    for split in ("choose", "test"):
        write_jsonl(folder / f"generations/{split}.jsonl", [row.to_json() for row in GENERATIONS if row.split == split])
    write_rows(folder / "prompts.jsonl", [Prompt(id=name, prompt=text) for name, text in PROMPTS.items()])
    recipe = {
        "span_judge": {"name": "rules", "patterns": {"backtracking": ["^Wait"]}},
        "score_judge": {"name": "keyword", "keywords": ["wait", "hmm"]},
        "fitter": {"name": "dom", "label": "backtracking"},
        "think_end": "</think>",
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


def label_all(run: Path, name: str, label: str = "deduction", **special: str) -> None:
    """Label every span of the traces: `special` has another label for a text's first words (spaces as `_`)."""
    with Store(run, name) as store:
        for task in trace_tasks(run, 1):
            _, start, end = task.place
            words = re.sub(r"\W+", "_", task.text.text[start:end])
            store.put("label", task, label=next((v for k, v in special.items() if words.startswith(k)), label))


@contextmanager
def served(run: Path, name: str = "ada") -> Iterator[Server]:
    """The page of an annotator, served in this process."""
    with Store(run, name) as store:
        session = Session(store, shuffled(trace_tasks(run, 2), name, 0), load_taxonomy(), "What is it?")
        with Server(session) as server:
            thread = Thread(target=server.serve_forever, args=(0.02,))
            thread.start()
            try:
                yield server
            finally:
                server.shutdown()
                thread.join()
