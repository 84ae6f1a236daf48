"""Figure 6: the centred projection on the vector at every token of unsteered texts, and what begins soon after."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from steerkit.artifacts import Condition
from steerkit.context import Run
from steerkit.data.chats import to_json
from steerkit.data.importing import place
from steerkit.data.tokens import make_trace
from steerkit.data.trace import Item, Prompt, Trace
from steerkit.errors import Problem, SteerkitError
from steerkit.extraction.extract import read_layer
from steerkit.findings import Claim, Figure, Findings, Lines, Marked, Series, Table
from steerkit.interfaces import Config
from steerkit.parts import Experiment
from steerkit.report import words
from steerkit.report.marking import pieces
from steerkit.settings import Chatting, Intervals, Labelling, Reading, Scoring, Steering, Whole
from steerkit.stats.detection import auroc, begins_within
from steerkit.steps.results import Results
from steerkit.steps.spans import fitted_label
from steerkit.steps.vectors import Vectors
from steerkit.vectors.steering_vector import SteeringVector
from steerkit_plugins.backtracking.conditions import BASE, REASONING, plain, unknown_models
from steerkit_plugins.backtracking.texts import few_pooled, marks_by, shades_of

Row = dict[str, Any]
ACROSS = {
    "over all texts": ("auroc", "ci_low", "ci_high"),
    "in the text: its mean taken off": ("in_text", "in_text_low", "in_text_high"),
}
"""Columns of an AUROC and its interval."""


class ProjectionConfig(Config):
    source: str = BASE
    """Model that the vector comes from."""
    target: str | None = None
    """Model whose activations are projected; the vector's own source when left out."""
    within: Whole = Field(default=(1, 2, 4, 8, 16, 32, 64), min_length=1)
    """Tokens ahead: a token counts as a hit when a span with the label begins at most this many tokens later."""

    @property
    def reader(self) -> str:
        """The model whose activations are projected."""
        return self.target or self.source


class Projection(Experiment):
    """Is the vector a detector of what is to come?"""

    Config = ProjectionConfig
    uses = (Steering, Labelling, Scoring, Chatting, Intervals, Reading)

    def check(self, run: Run) -> Iterator[Problem]:
        c = self.config
        yield from unknown_models(run, {"projection.source": c.source, "projection.target": c.target})

    def needs(self, run: Run) -> Sequence[str]:
        return ("vectors", "prompts")

    def models(self, run: Run) -> Sequence[str]:
        return (self.config.reader,)

    def conditions(self, run: Run, vectors: Vectors, prompts: list[Prompt]) -> Sequence[Condition]:
        return [plain(run, REASONING)]

    def findings(self, run: Run, results: Results, vectors: Vectors, prompts: list[Prompt]) -> Findings:
        label = fitted_label(run)
        traces = self._traces(run, results, prompts)
        values = self._project(run, traces, vectors[run.vector(self.config.source)])
        labelled = run.judge(run.use(Labelling).span_judge).annotate([trace.text for trace in traces])
        rows = []
        for trace, own, spans in zip(traces, values, labelled, strict=True):
            first = len(trace.prompt_ids)
            rows.append(
                {
                    "id": trace.id,
                    "prompt": to_json(trace.prompt),
                    "text": trace.text,
                    "starts": list(trace.starts[: trace.thinking]),
                    "values": [round(float(v), 5) for v in own],
                    "begins": [place(trace, a, b, x, "").first - first for a, b, x in spans if x == label],
                }
            )
        found = [self._detect(run, label, rows, n) for n in self.config.within]
        return Findings(
            title="Does the vector detect?",
            question=f"Does the projection on the vector tell that {label} is about to begin?",
            claims=self._beside(run, found, label, results.level),
            figures=(self._figure(run, rows, found, results),),
            tables=(_table(found, results.level),),
            cautions=few_pooled("the projection's AUROC", [int(row["n_traces"]) for row in found], "texts"),
            data={"projections.jsonl": rows, "detection.csv": found},
        )

    def _traces(self, run: Run, results: Results, prompts: list[Prompt]) -> list[Trace]:
        """The reasoning model's unsteered test texts, with their tokens."""
        tokenizer, marker = run.models.tokenizer, run.use(Chatting).think_end
        by_id = {prompt.id: prompt for prompt in prompts}
        found = []
        for row in results.texts(plain(run, REASONING)):
            prompt = by_id[row.prompt_id]
            named = Prompt(id=f"{prompt.id}-{row.sample}", prompt=prompt.prompt)
            ids = run.chats.ids(prompt.prompt)
            found.append(make_trace(tokenizer, named, ids, row.ids, row.finished, marker))
        return found

    def _project(self, run: Run, traces: Sequence[Trace], vector: SteeringVector) -> list[np.ndarray]:
        """v̂·(h − h̄) of one model's activations h at every reasoning token of each trace, h̄ the source's mean."""
        layer, lm = run.use(Steering).layer, run.models[self.config.reader]
        unit, mean = vector.unit(layer), vector.means[layer]
        items = [Item(trace, (), run.models.ids_for(self.config.reader, trace.tokens)) for trace in traces]
        found: dict[str, np.ndarray] = {}
        for batch, hidden in read_layer(lm, items, layer, batch_tokens=run.use(Reading).batch_tokens):
            values = ((hidden.float() - mean.to(hidden.device)) @ unit.to(hidden.device)).cpu().numpy()
            for item, row in zip(batch, values, strict=True):
                first = len(item.trace.prompt_ids)
                own = found[item.trace.id] = row[first : first + item.trace.thinking].copy()
                if not np.isfinite(own).all():
                    token = first + int(np.argmin(np.isfinite(own)))
                    raise SteerkitError(
                        f"{lm.name}: the projection of token {token} of text {item.trace.id!r} at block {layer} is not "
                        "a finite number; half precision overflows like this: use bf16 or float32"
                    )
        return [found[trace.id] for trace in traces]

    def _detect(self, run: Run, label: str, rows: Sequence[Row], within: int) -> Row:
        s = run.use(Intervals)
        hits = [begins_within(len(row["values"]), row["begins"], within) for row in rows]
        scores = [np.array(row["values"]) for row in rows]
        centred = [own - own.mean() if len(own) else own for own in scores]
        found, in_text = (
            auroc(own, hits, confidence=s.confidence, resamples=s.resamples, seed=run.seed) for own in (scores, centred)
        )
        return {
            "source": self.config.source,
            "target": self.config.reader,
            "layer": run.use(Steering).layer,
            "within": within,
            "auroc": found.mean,
            "ci_low": found.low,
            "ci_high": found.high,
            "in_text": in_text.mean,
            "in_text_low": in_text.low,
            "in_text_high": in_text.high,
            "n_hits": int(sum(h.sum() for h in hits)),
            "n_tokens": sum(map(len, scores)),
            "n_traces": found.n,
            "label": label,
        }

    def _figure(self, run: Run, rows: Sequence[Row], found: Sequence[Row], results: Results) -> Figure:
        """One unsteered text shaded by projection, and the AUROC of what is to come."""
        c = self.config
        panels: list[Marked | Lines] = []
        if rows:
            text = next((row for row in rows if row["begins"]), rows[0])
            marks = marks_by(run, [text["text"]])[0]
            boxed = "" if marks is None else f"; boxed: counted in {results.score.title}"
            title = f"v̂·(h − h̄) above 0, block {run.use(Steering).layer}: the darker, the higher{boxed}"
            marked = pieces(text["text"], boxed=marks or (), shades=shades_of(rows).get(text["id"], ()))
            panels.append(Marked(title=title, pieces=marked))
        known = [row for row in found if not words.missing(row["auroc"])]
        at = tuple(float(index) for index in range(len(known)))
        n = int(found[0]["n_traces"])
        panels.append(
            Lines(
                title=f"Does the projection tell it beforehand? {n} unsteered test texts, {results.level} intervals",
                xlabel="n: a sentence with the label begins within n tokens",
                ylabel="AUROC",
                series=tuple(
                    Series(
                        name=name,
                        x=at,
                        y=tuple(row[value] for row in known),
                        low=tuple(None if words.missing(row[low]) else row[low] for row in known),
                        high=tuple(None if words.missing(row[high]) else row[high] for row in known),
                        look=look,
                    )
                    for look, (name, (value, low, high)) in enumerate(ACROSS.items())
                ),
                ticks=tuple((x, words.short(row["within"])) for x, row in zip(at, known, strict=True)),
                level=0.5,
                bounds=(0.3, 0.8),
                empty="no value: no token is followed by such a sentence, or every text is empty",
            )
        )
        return Figure(
            name="projection",
            title="Does the vector detect?",
            caption=f"The reasoning model's unsteered test texts, read by the {c.reader} model: projection of its "
            f"activations on the {c.source}-derived vector, centred on the {c.source} model's mean activation before "
            "labelled sentences. Below: the probability that a token which such a sentence follows within n tokens "
            "lies higher than another token, with bootstrap intervals over texts.",
            panels=tuple(panels),
            columns=1,
        )

    def _beside(self, run: Run, rows: Sequence[Row], label: str, level: str) -> tuple[Claim, ...]:
        """The AUROC nearest to the window's reach."""
        known = [row for row in rows if not words.missing(row["auroc"])]
        if not known:
            return ()
        reach = run.vector(self.config.source).window[0]
        row = min(known, key=lambda r: abs(r["within"] + reach))
        text = (
            f"Projection as a detector: AUROC {words.number(row['auroc'], 2)} that a {label} sentence begins within "
            f"{words.short(row['within'])} tokens"
        )
        low, high = words.number(row["ci_low"], 2), words.number(row["ci_high"], 2)
        inside = " ".join(_estimate(row, *ACROSS["in the text: its mean taken off"], 2))
        detail = (
            f"{level} interval [{low}, {high}] over {words.number(row['n_traces'])} texts; with each text's mean taken "
            f"off {inside}; 0.5 is chance"
        )
        return (Claim(kind="beside", text=text, detail=detail),)


def _table(rows: Sequence[Row], level: str) -> Table:
    """AUROC by tokens ahead."""
    made = tuple(
        (
            words.short(row["within"]),
            *(cell for columns in ACROSS.values() for cell in _estimate(row, *columns, 3)),
            words.number(row["n_hits"]),
            words.number(row["n_tokens"]),
            words.number(row["n_traces"]),
        )
        for row in rows
    )
    interval = f"{level} interval"
    headings = (
        "within n tokens",
        "AUROC",
        interval,
        "AUROC in the text",
        interval,
        "tokens before it",
        "tokens",
        "texts",
    )
    return Table(headings=headings, rows=made, left=0)


def _estimate(row: Row, value: str, low: str, high: str, digits: int) -> tuple[str, str]:
    """An AUROC and its interval in words."""
    ends = ", ".join(words.number(row[end], digits) for end in (low, high))
    return words.number(row[value], digits), f"[{ends}]"
