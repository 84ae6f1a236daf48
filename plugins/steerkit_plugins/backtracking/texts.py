"""Figure 1: texts of the same prompts, unsteered and steered, with windows, sentences and keywords marked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from steerkit import registry
from steerkit.artifacts import Condition
from steerkit.context import Run
from steerkit.data.chats import messages_of
from steerkit.data.generated import Generation
from steerkit.data.tokens import split_answer
from steerkit.data.trace import Prompt, first_token
from steerkit.findings import Figure, Findings, Marked, Piece, Texts
from steerkit.interfaces import Judge
from steerkit.judging import ask as judging
from steerkit.judging.metrics import JUDGED
from steerkit.judging.repetition import collapsed
from steerkit.parts import Experiment
from steerkit.report import words
from steerkit.report.marking import Span, pieces
from steerkit.settings import Chatting, Labelling, Scoring, Steering
from steerkit.stats.intervals import ENOUGH_POOLED
from steerkit.steps.results import Results
from steerkit.steps.spans import fitted_label
from steerkit.steps.vectors import Vectors
from steerkit.store.files import read_whole_lines
from steerkit_plugins.backtracking.conditions import BASE, REASONING, fitted, is_plain, plain
from steerkit_plugins.backtracking.words import window

MOST = 16  # prompts shown
SHADES = 4
GUIDE = "docs/statistics.md"


class SteeredTexts(Experiment):
    """What does the reasoning model write when the base-derived vector is added, beside what it writes without?"""

    rows = None
    uses = (Steering, Labelling, Scoring, Chatting)

    def needs(self, run: Run) -> Sequence[str]:
        return ("vectors", "choose", "prompts")

    def afterwards(self, run: Run) -> Sequence[str]:
        return ("projection",) if "projection" in run.experiments else ()

    def conditions(self, run: Run, vectors: Vectors, choice: Findings, prompts: list[Prompt]) -> Sequence[Condition]:
        strength = choice.value["strength"]
        found = [plain(run, REASONING), fitted(run, BASE, REASONING, strength)]
        if "baselines" in run.experiments:
            baselines: Any = run.experiment("baselines")
            found += baselines.at(run, strength)
        return found

    def findings(
        self,
        run: Run,
        results: Results,
        vectors: Vectors,
        choice: Findings,
        prompts: list[Prompt],
        projection: Findings | None = None,
    ) -> Findings:
        strength = words.short(choice.value["strength"])
        unsteered, main, *others = results.conditions
        named = {"unsteered": unsteered, f"base-derived vector, strength {strength}": main}
        if strongest := _strongest(results, others):
            named[f"strongest baseline: {strongest.labels['method']}, same norm"] = strongest
        shown = [prompt for prompt in prompts if prompt.split == "test"][:MOST]
        rows = {(row.prompt_id, row.condition): row for row in results.generations if row.sample == 0}
        shades = shades_of(read_whole_lines(run.folder / "projections.jsonl")) if projection else {}
        wanted = [(prompt.id, name) for prompt in shown for name in named if (prompt.id, named[name].id) in rows]
        made = dict(
            zip(wanted, self._marked(run, [rows[p, named[n].id] for p, n in wanted], named, shades), strict=True)
        )
        browsed = []
        for prompt in shown:
            own = tuple(made[prompt.id, name] for name in named if (prompt.id, name) in made)
            counts = " / ".join(text.facts.partition(" ")[0] for text in own)
            chat = [("", prompt.prompt)] if isinstance(prompt.prompt, str) else _turns(prompt)
            browsed.append((tuple(chat), own, f"judged sentences: {counts}"))
        label, tokens = fitted_label(run), window(*run.vector(BASE).window)
        counted = marks_by(run, [""])[0] is not None
        boxed = f"boxed: counted in {results.score.title}; " if counted else ""
        which = "unsteered and with the base-derived vector"
        if len(named) > 2:
            which = "unsteered, with the base-derived vector, and with the baseline that has the most judged sentences"
        legend = f"filled: judged {label}; {boxed}underlined: tokens {tokens} before such a sentence"
        shaded = " Shaded: the higher an unsteered token projects on the vector, the darker." if shades else ""
        about = (
            f"The first {len(browsed)} test prompts in their order, none picked: {which}. "
            f"{legend[:1].upper()}{legend[1:]}.{shaded} What follows the reasoning is grey "
            "and counts for nothing."
        )
        figure = Figure(
            name="texts",
            title="One prompt, unsteered and steered",
            caption="The first test prompt, not picked. The browser of texts below has more.",
            heading=legend,
            panels=browsed[0][1] if browsed else (),
            columns=1,
        )
        return Findings(
            title="Texts",
            question="What does the reasoning model write with the vector, beside what it writes without?",
            figures=(figure,) if browsed and len(browsed[0][1]) > 1 else (),
            texts=(Texts(title="Texts", about=about, prompts=tuple(browsed)),) if browsed else (),
        )

    def _marked(
        self,
        run: Run,
        rows: Sequence[Generation],
        named: dict[str, Condition],
        shades: dict[str, list[tuple[int, int, int]]],
    ) -> list[Marked]:
        """Each text with its judged sentences, windows before them, and what the score judge counts."""
        names = {condition.id: name for name, condition in named.items()}
        label, offsets = fitted_label(run), run.vector(BASE).window
        split = [split_answer(row.text, run.use(Chatting).think_end) for row in rows]
        texts = [text for text, _ in split]
        spans = judging.annotate(run.judge(run.use(Labelling).span_judge), texts)
        found = []
        for row, (text, answer), own, marks in zip(rows, split, spans, marks_by(run, texts), strict=True):
            judged = [(start, end) for start, end, what in own if what == label]
            windows = windows_before(judged, (row.starts, row.continues), offsets, len(text))
            plain_text = named[names[row.condition]].interventions == ()
            shaded = shades.get(f"{row.prompt_id}-0", ()) if plain_text else ()
            cut = pieces(text, filled=judged, boxed=marks or (), underlined=windows, shades=shaded)
            facts = f"{len(judged)} of {len(own)} sentences judged {label}"
            if marks is not None:
                facts += f", {len(marks)} counted"
            flags = [*(["collapsed"] if collapsed(text) else []), *([] if text.strip() else ["empty"])]
            after = [Piece(text=answer, grey=True)] if answer else []
            found.append(Marked(title=names[row.condition], pieces=(*cut, *after), facts=facts, flags=tuple(flags)))
        return found


def _turns(prompt: Prompt) -> list[tuple[str, str]]:
    return [(str(message.role), message.content) for message in messages_of(prompt.prompt)]


def _strongest(results: Results, conditions: Sequence[Condition]) -> Condition | None:
    """The condition with the most judged sentences; None where there is none."""
    rows = [(results.row(c, JUDGED)["mean"], c) for c in conditions if not is_plain(c)]
    there = [(mean, c) for mean, c in rows if not words.missing(mean)]
    return max(there, key=lambda each: each[0])[1] if there else None


def few_pooled(what: str, counts: Sequence[int], of: str) -> tuple[str, ...]:
    """A caution where too few texts or prompts are behind a pooled figure.

    Args:
        of: what is counted, in a word: what the bootstrap resamples.
    """
    fewest = min(counts, default=0)
    if not 0 < fewest < ENOUGH_POOLED:
        return ()
    return (
        f"Few {of} behind a pooled figure: {what} rests on {words.number(fewest)}. With fewer than {ENOUGH_POOLED}, a "
        f"bootstrap interval can miss the true value more often than its level says ({GUIDE}).",
    )


def shades_of(rows: Sequence[dict[str, Any]]) -> dict[str, list[tuple[int, int, int]]]:
    """By text, (start, end, shade) of its tokens: the projection's strength above 0, against the highest of all."""
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


def windows_before(
    judged: Sequence[Span], tokens: tuple[Sequence[int], Sequence[int]], window: tuple[int, int], end: int
) -> list[Span]:
    """Characters of the fitted window's tokens before each sentence; one that begins before the text is left out.

    Args:
        tokens: where a text's tokens start, and which of them continue a character (`steerkit.data.tokens.Decoded`).
    """
    starts, continues = tokens[0], set(tokens[1])
    ends = [start + (index in continues) for index, start in enumerate([*starts[1:], end], 1)]
    found = []
    for begin, _ in judged:
        first = first_token(starts, continues, begin)
        low, high = first + window[0], first + window[1]
        if starts and low >= 0 and high < len(ends):
            found.append((min(starts[low], end), min(ends[high], end)))
    return found


def marks_by(run: Run, texts: Sequence[str]) -> list[list[Span] | None]:
    """What the score judge counts in each text; None where it has no such places."""
    judge: Judge = registry.build("judges", run.use(Scoring).score_judge)
    return [None] * len(texts) if type(judge).marks is Judge.marks else [*judge.marks(texts)]
