"""Texts to read: unsteered beside steered, with judged sentences and what the score judge counts marked."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise
from typing import Any

from steerkit.conditions import Condition
from steerkit.data.chats import parse_chat
from steerkit.data.tokens import split_answer
from steerkit.data.trace import first_token
from steerkit.errors import SteerkitError
from steerkit.interfaces import Judge
from steerkit.judging.quality import collapsed
from steerkit.report.run import Row, Run, select

MOST = 16  # prompts shown
UNSTEERED = "unsteered"
SHADES = 4

Span = tuple[int, int]
Tokens = tuple[Sequence[int], Sequence[int]]
"""Where a text's tokens start, and which of them continue a character (see `steerkit.data.tokens.Decoded`)."""


@dataclass(frozen=True)
class Piece:
    """A stretch of text that is marked in one way.

    Attributes:
        judged: whether it lies in a sentence with the fitted label.
        marked: whether the score judge counts it.
        window: whether it lies in the fitted window before such a sentence.
        shade: 0 to 4: how far the projection on the vector is above 0.
    """

    text: str
    judged: bool = False
    marked: bool = False
    window: bool = False
    shade: int = 0


@dataclass(frozen=True)
class Text:
    """One generation: its reasoning in marked pieces, and what came after it.

    Attributes:
        marked: places that the score judge counts; None where it has no such places, or can't be had.
        judged: sentences with the fitted label; None where the span judge can't be had.
    """

    name: str
    pieces: list[Piece]
    answer: str
    marked: int | None
    judged: int | None
    sentences: int
    collapsed: bool
    empty: bool


@dataclass(frozen=True)
class Shown:
    """A test prompt, as (role, text) of its messages, and its texts under each condition. A text has no role."""

    prompt: list[tuple[str, str]]
    texts: list[Text]


def browse(run: Run) -> tuple[list[Shown], str]:
    """The first test prompts in order, and a note on what could not be marked."""
    place = ("test", "reasoning", 0)
    found = run.jsonl("generations.jsonl")
    generations = [row for row in found if (row["split"], row["target"], row["sample"]) == place]
    named = {ids: name for name, ids in _conditions(run, generations) if ids}
    prompts = select(run.jsonl("prompts.jsonl"), split="test")[:MOST]
    rows = {(row["prompt_id"], row["condition"]): row for row in generations if row["condition"] in named}
    wanted = [(p["id"], ids) for p in prompts for ids in named if (p["id"], ids) in rows]
    split = {key: split_answer(str(rows[key]["text"]), run.recipe.get("think_end", "")) for key in wanted}
    texts = [split[key][0] for key in wanted]
    judged, note = _judge(run, texts)
    spans, marks = dict(zip(wanted, judged, strict=True)), dict(zip(wanted, marks_of(run, texts), strict=True))
    shades = shades_of(run)
    shown = []
    for prompt in prompts:
        keys = [(prompt["id"], ids) for ids in named if (prompt["id"], ids) in split]
        own = [
            _text(
                run,
                named[key[1]],
                *split[key],
                spans[key],
                marks[key],
                (rows[key].get("starts", ()), rows[key].get("continues", ())),
                shades.get(f"{key[0]}-0", ()) if named[key[1]] == UNSTEERED else (),
            )
            for key in keys
        ]
        if own:
            shown.append(Shown(_messages(prompt["prompt"]), own))
    return shown, note


def _messages(prompt: object) -> list[tuple[str, str]]:
    chat, _ = parse_chat(prompt)
    return [("", chat)] if isinstance(chat, str) else [(str(m.role), m.content) for m in chat]


def _conditions(run: Run, generations: Sequence[Row]) -> list[tuple[str, str | None]]:
    """(name, condition id): unsteered, the fitted vector at the chosen strength, the strongest baseline there."""
    ids = {row["condition"] for row in generations}
    unsteered = Condition(target="reasoning").id
    found: list[tuple[str, str | None]] = [(UNSTEERED, unsteered if unsteered in ids else None)]
    vector = run.vector("base")
    if vector is not None:
        # By id: a sweep's vector of the same window has the same columns.
        own = Condition(
            target="reasoning",
            method=run.fitter,
            source="base",
            layer=run.layer,
            window=run.window,
            strength=run.strength,
            added_norm=run.strength * vector.norm(run.layer),
            vector=run.vector_key("base"),
        ).id
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
    from steerkit.settings import PluginSpec

    try:
        judge: Any = PluginSpec(**run.recipe["span_judge"]).build("judges")
        judge.open(run.folder / "judges" / judge.name, lambda done, total: None)
        if any(judge.estimate(texts).values()):
            raise SteerkitError("the folder lacks its answers, and a report asks nobody")
        return judge.annotate(texts), ""
    except SteerkitError as error:
        return [None] * len(texts), f"Sentences are not marked: the judge can't be had here ({error})."


def shades_of(run: Run) -> dict[str, list[tuple[int, int, int]]]:
    """By text, (start, end, shade) of its tokens: the projection's strength above 0, against the run's highest."""
    rows = run.jsonl("projections.jsonl")
    top = sorted(value for row in rows for value in row["values"] if value > 0)
    if not top:
        return {}
    high = top[int(0.99 * (len(top) - 1))]
    return {
        row["id"]: [
            (start, end, min(SHADES, math.ceil(SHADES * max(value, 0.0) / high)))
            for (start, end), value in zip(pairwise([*row["starts"], len(row["text"])]), row["values"], strict=True)
        ]
        for row in rows
    }


def windows_before(judged: Sequence[Span], tokens: Tokens, window: tuple[int, int], end: int) -> list[Span]:
    """Characters of the fitted window's tokens before each sentence; one that begins before the text is left out."""
    starts, continues = tokens[0], set(tokens[1])
    ends = [start + (index in continues) for index, start in enumerate([*starts[1:], end], 1)]
    found = []
    for begin, _ in judged:
        first = first_token(starts, continues, begin)
        low, high = first + window[0], first + window[1]
        if starts and low >= 0 and high < len(ends):
            found.append((min(starts[low], end), min(ends[high], end)))
    return found


def _text(
    run: Run,
    name: str,
    text: str,
    answer: str,
    spans: list[tuple[int, int, str]] | None,
    marks: list[Span] | None,
    tokens: Tokens,
    shades: Sequence[tuple[int, int, int]],
) -> Text:
    judged = [(start, end) for start, end, label in spans or () if label == run.label]
    windows = windows_before(judged, tokens, run.window, len(text))
    return Text(
        name=name,
        pieces=pieces(text, judged, marks or (), windows, shades),
        answer=answer,
        marked=None if marks is None else len(marks),
        judged=None if spans is None else len(judged),
        sentences=len(spans or ()),
        collapsed=collapsed(text),
        empty=not text.strip(),
    )


def marks_of(run: Run, texts: Sequence[str]) -> list[list[Span] | None]:
    """What the run's score judge counts in each text; None where it has no such places, or can't be had here."""
    from steerkit.settings import PluginSpec

    try:
        judge: Judge = PluginSpec(**run.recipe["score_judge"]).build("judges")
    except SteerkitError:
        return [None] * len(texts)
    return [None] * len(texts) if type(judge).marks is Judge.marks else [*judge.marks(texts)]


def pieces(
    text: str,
    judged: Sequence[Span],
    marked: Sequence[Span],
    windows: Sequence[Span] = (),
    shades: Sequence[tuple[int, int, int]] = (),
) -> list[Piece]:
    """Cut a text wherever a mark begins or ends."""
    marks = [*judged, *marked, *windows, *((start, end) for start, end, _ in shades)]
    cuts = sorted({0, len(text), *(place for span in marks for place in span)})
    shade_at = {start: shade for start, end, shade in shades if start < end}
    inside = [_inside(cuts, spans) for spans in (judged, marked, windows)]
    found, shade = [], 0
    for (a, b), in_judged, in_marked, in_window in zip(pairwise(cuts), *inside, strict=True):
        shade = shade_at.get(a, shade)
        found.append(Piece(text[a:b], in_judged, in_marked, in_window, shade))
    return [piece for piece in _joined(found) if piece.text]


def _joined(parts: Iterable[Piece]) -> Iterator[Piece]:
    """Neighbours that are marked alike as one piece."""
    for marks, group in groupby(parts, key=lambda p: (p.judged, p.marked, p.window, p.shade)):
        yield Piece("".join(p.text for p in group), *marks)


def _inside(cuts: Sequence[int], spans: Sequence[Span]) -> list[bool]:
    """Of each stretch between two cuts, whether it lies in a span; spans begin and end at cuts."""
    changes: Counter[int] = Counter()
    for start, end in spans:
        changes[start] += 1
        changes[end] -= 1
    return [depth > 0 for depth in accumulate(changes[cut] for cut in cuts[:-1])]
