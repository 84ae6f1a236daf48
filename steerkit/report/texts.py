"""Texts to read: unsteered beside steered, with keywords and judged sentences marked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from steerkit.conditions import Condition
from steerkit.errors import SteerkitError
from steerkit.quality import collapsed, words
from steerkit.report.run import Row, Run, select
from steerkit.tokens import split_answer

MOST = 16  # prompts shown

Span = tuple[int, int]


@dataclass(frozen=True)
class Piece:
    """A stretch of text that is marked in one way."""

    text: str
    judged: bool = False
    keyword: bool = False


@dataclass(frozen=True)
class Text:
    """One generation: its reasoning in marked pieces, and what came after it."""

    name: str
    pieces: list[Piece]
    answer: str
    keywords: int
    judged: int | None
    sentences: int
    collapsed: bool
    empty: bool


@dataclass(frozen=True)
class Shown:
    """A test prompt and its texts under each condition."""

    prompt: str
    texts: list[Text]


def browse(run: Run) -> tuple[list[Shown], str]:
    """The first test prompts in order, and a note on what could not be marked."""
    generations = select(run.jsonl("generations.jsonl"), split="test", target="reasoning", sample=0)
    named = [(name, ids) for name, ids in _conditions(run, generations) if ids]
    prompts = select(run.jsonl("prompts.jsonl"), split="test")[:MOST]
    chosen = {ids: name for name, ids in named}
    texts = {
        (row["prompt_id"], row["condition"]): str(row["text"]) for row in generations if row["condition"] in chosen
    }
    wanted = [(p["id"], ids) for p in prompts for _, ids in named if (p["id"], ids) in texts]
    split = {key: split_answer(texts[key], run.recipe.get("think_end", "")) for key in wanted}
    judged, note = _judge(run, [split[key][0] for key in wanted])
    spans = dict(zip(wanted, judged, strict=True))
    shown = []
    for prompt in prompts:
        keys = [(prompt["id"], ids) for _, ids in named if (prompt["id"], ids) in split]
        if keys:
            own = [_text(run, chosen[key[1]], *split[key], spans[key]) for key in keys]
            shown.append(Shown(str(prompt["prompt"]), own))
    return shown, note


def _conditions(run: Run, generations: Sequence[Row]) -> list[tuple[str, str | None]]:
    """(name, condition id): unsteered, the fitted vector at the chosen strength, the strongest baseline there."""
    ids = {row["condition"] for row in generations}
    unsteered = Condition(target="reasoning").id
    found: list[tuple[str, str | None]] = [("unsteered", unsteered if unsteered in ids else None)]
    vector = run.vector("base")
    if vector is not None:
        # By id: a sweep's vector of the same window has the same columns.
        own = Condition(
            target="reasoning", method=run.fitter, source="base", layer=run.layer, window=run.window,
            strength=run.strength, added_norm=run.strength * vector.norm(run.layer), vector=run.vector_key("base"),
        ).id  # fmt: skip
        found.append((f"base-derived vector, strength {run.strength:g}", own if own in ids else None))
    baseline = strongest_baseline(run)
    if baseline:
        same = select(generations, method=baseline, strength=run.strength)
        found.append((f"strongest baseline: {baseline}, same norm", same[0]["condition"] if same else None))
    return found


def strongest_baseline(run: Run) -> str:
    """The baseline with the most judged sentences at the chosen strength; empty when none was run."""
    rows = select(run.results, experiment="baselines", split="test", strength=run.strength, metric="judged_sentences")
    rows = [row for row in rows if row["method"] not in ("none", run.fitter) and row["mean"] is not None]
    return str(max(rows, key=lambda row: row["mean"])["method"]) if rows else ""


def _judge(run: Run, texts: Sequence[str]) -> tuple[list[list[tuple[int, int, str]] | None], str]:
    """Labelled sentences of each text by the run's own judge, where it can be had here."""
    from steerkit.arguments import PluginSpec

    try:
        judge: Any = PluginSpec(**run.recipe["span_judge"]).build("judges")
        judge.open(run.folder / "judges" / judge.name, lambda done, total: None)
        return judge.annotate(texts), ""
    except SteerkitError as error:
        return [None] * len(texts), f"Sentences are not marked: the judge can't be had here ({error})."


def _text(run: Run, name: str, text: str, answer: str, spans: list[tuple[int, int, str]] | None) -> Text:
    judged = [(start, end) for start, end, label in spans or () if label == run.label]
    keywords = keyword_places(text, run.recipe["score_judge"])
    return Text(
        name=name, pieces=pieces(text, judged, keywords), answer=answer, keywords=len(keywords),
        judged=None if spans is None else len(judged), sentences=len(spans or ()), collapsed=collapsed(text),
        empty=not text.strip(),
    )  # fmt: skip


def keyword_places(text: str, judge: dict[str, Any]) -> list[Span]:
    """Characters of the words that the score judge counts; none when it does not count keywords."""
    wanted = [str(word).casefold() for word in judge.get("keywords", ())]
    found = []
    for match in re.finditer(r"\S+", text):
        word = words(match.group())[0]
        if any(w in word for w in wanted) if judge.get("substring") else word in wanted:
            found.append(match.span())
    return found


def pieces(text: str, judged: Sequence[Span], keywords: Sequence[Span]) -> list[Piece]:
    """Cut a text wherever a mark begins or ends."""
    cuts = sorted({0, len(text), *(place for span in (*judged, *keywords) for place in span)})
    return [Piece(text[a:b], _inside(a, judged), _inside(a, keywords)) for a, b in pairwise(cuts) if a < b]


def _inside(place: int, spans: Iterable[Span]) -> bool:
    return any(start <= place < end for start, end in spans)
