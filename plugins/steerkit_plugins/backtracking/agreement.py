"""Table C.1: another judge against the span judge on sentences of steered texts, by strength."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from steerkit import registry
from steerkit.artifacts import Condition
from steerkit.context import Run
from steerkit.data.tokens import split_answer
from steerkit.errors import Problem, SteerkitError
from steerkit.findings import Claim, Figure, Findings, Lines, Series, Table
from steerkit.identity import spec_settings
from steerkit.interfaces import Config
from steerkit.judging import ask as judging
from steerkit.judging.agreement_tables import METRICS, agreement_rows
from steerkit.judging.metrics import unlabelled
from steerkit.judging.units import labels_by
from steerkit.report import words
from steerkit.settings import Chatting, Intervals, Judge, Labelling
from steerkit.stats.agreement import agreement as agree
from steerkit.steps.results import Results
from steerkit.steps.spans import fitted_label
from steerkit_plugins.backtracking.choose import AtChosenStrength, strengths
from steerkit_plugins.backtracking.texts import few_pooled
from steerkit_plugins.backtracking.words import told_apart

LOOKS = {"precision": 0, "recall": 1, "f1": 6}
Row = dict[str, Any]


class AgreementConfig(Config):
    judge: Judge
    """Judge that is held against the span judge, on sentences of test texts at every strength."""


class Agreement(AtChosenStrength):
    """Do keywords count what a judge of sentences calls backtracking, and does steering change that?"""

    Config = AgreementConfig
    uses = (Labelling, Chatting, Intervals)

    def needs(self, run: Run) -> Sequence[str]:
        return ("choose",)

    def check(self, run: Run) -> Iterator[Problem]:
        try:
            yield from unlabelled("agreement", "judge", registry.build("judges", self.config.judge), fitted_label(run))
        except SteerkitError:
            return  # a judge that reads its labels from files, which need not be there yet

    def conditions(self, run: Run, choice: Findings) -> Sequence[Condition]:
        return strengths(run)

    def findings(self, run: Run, results: Results, choice: Findings) -> Findings:
        span_judge, other = run.judge(run.use(Labelling).span_judge), run.judge(self.config.judge)
        specs = (run.use(Labelling).span_judge, self.config.judge)
        reference, name = told_apart([spec_settings("judges", spec) for spec in specs])
        second = f"{name} (scored)" if name == reference else name
        shared = [label for label in span_judge.labels() if label in other.labels()]
        s, marker = run.use(Intervals), run.use(Chatting).think_end
        rows: list[Row] = []
        for condition in sorted(results.conditions, key=lambda c: float(c.labels["strength"])):
            if results.scored.is_broken(condition):
                continue
            texts = [(row.prompt_id, split_answer(row.text, marker)[0]) for row in results.texts(condition)]
            spans = judging.annotate(span_judge, [text for _, text in texts])
            units = [
                (prompt, text[a:b], label)
                for (prompt, text), own in zip(texts, spans, strict=True)
                for a, b, label in own
            ]
            if units:
                clusters, pieces, labels = (list(column) for column in zip(*units, strict=True))
                found = agree(
                    {reference: labels, second: labels_by(other, pieces)},
                    clusters,
                    labels=shared,
                    confidence=s.confidence,
                    resamples=s.resamples,
                    seed=run.seed,
                )
                rows += agreement_rows(found, words.short(condition.labels["strength"]).replace("−", "-"))
        label = fitted_label(run)
        return Findings(
            title="Do the judges agree?",
            question="Do two judges call the same sentences by one label, and does steering change that?",
            claims=_beside(rows, label, results.level),
            figures=(_figure(rows, label, results.level, second, reference),),
            tables=(_table(rows, label),),
            cautions=few_pooled(
                "agreement of judges", [int(row["n_traces"]) for row in rows if row["n_traces"]], "prompts"
            ),
            data={"agreement.csv": rows},
        )


def _of(rows: Sequence[Row], **wanted: Any) -> list[Row]:
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def _figure(rows: Sequence[Row], label: str, level: str, judge: str, reference: str) -> Figure:
    """Precision, recall and F1 of the fitted label against strength."""
    groups = list(dict.fromkeys(row["group"] for row in rows))
    lines = []
    for metric, name in METRICS.items():
        own = [row for row in _of(rows, label=label, metric=metric) if not words.missing(row["value"])]
        lines.append(
            Series(
                name=name,
                x=tuple(float(groups.index(row["group"])) for row in own),
                y=tuple(100 * row["value"] for row in own),
                low=tuple(None if words.missing(row["ci_low"]) else 100 * row["ci_low"] for row in own),
                high=tuple(None if words.missing(row["ci_high"]) else 100 * row["ci_high"] for row in own),
                look=LOOKS[metric],
            )
        )
    n = max((int(row["n_traces"]) for row in rows if row["n_traces"]), default=0)
    panel = Lines(
        title=f"sentences judged {label}",
        xlabel="strength",
        ylabel="%",
        series=tuple(lines),
        ticks=tuple((float(index), group) for index, group in enumerate(groups)),
        bounds=(0.0, None),
        empty="no sentence has the label",
    )
    return Figure(
        name="agreement",
        title="Do the judges agree?",
        caption=f"The {judge} judge against the {reference} judge on sentences of the reasoning model's texts, steered "
        f"with the base-derived vector. Precision: the share of its {label} sentences that are the other's too; "
        "recall: the share of the other's that it finds. Intervals: bootstrap over prompts.",
        heading=f"{judge} against {reference}: {n} test prompts, {level} intervals",
        panels=(panel,),
    )


def _table(rows: Sequence[Row], label: str) -> Table:
    """A row a strength."""
    made = []
    for group in dict.fromkeys(row["group"] for row in rows):
        own = {(row["metric"], row["label"]): row for row in _of(rows, group=group)}
        f1 = own.get(("f1", label))
        counts = [words.number(f1[key]) for key in ("n_reference", "n_judge", "n_both")] if f1 else ["", "", ""]
        shares = [_share(own.get((metric, label))) for metric in METRICS]
        rest = [_number(own.get((metric, None))) for metric in ("cohen_kappa", "krippendorff_alpha")]
        made.append((group, *shares, *rest, words.number(next(iter(own.values()))["n_units"]), *counts))
    first = next(iter(_of(rows, metric="f1")), {"reference": "", "judge": ""})
    headings = (
        "strength",
        "precision, %",
        "recall, %",
        "F1, %",
        "Cohen's κ",
        "Krippendorff's α",
        "sentences",
        f"{label} by {first['reference']}",
        f"by {first['judge']}",
        "by both",
    )
    return Table(headings=headings, rows=tuple(made))


def _share(row: Row | None) -> str:
    if row is None or words.missing(row["value"]):
        return words.NOTHING
    return f"{words.percent(row['value'])} {words.interval(row['ci_low'], row['ci_high'])}"


def _number(row: Row | None) -> str:
    if row is None or words.missing(row["value"]):
        return words.NOTHING
    return f"{words.number(row['value'], 2)} [{words.number(row['ci_low'], 2)}, {words.number(row['ci_high'], 2)}]"


def _beside(rows: Sequence[Row], label: str, level: str) -> tuple[Claim, ...]:
    """F1 without steering and at the highest strength."""
    own = [row for row in _of(rows, label=label, metric="f1") if not words.missing(row["value"])]
    if not own:
        return ()
    first, last = own[0], own[-1]
    text = (
        f"F1 of the {first['judge']} judge against the {first['reference']} judge: {_share(first)} % at strength "
        f"{first['group']}"
    )
    if last is not first:
        text += f", {_share(last)} % at {last['group']}"
    return (Claim(kind="beside", text=text, detail=f"{level} intervals, over prompts"),)
