"""Do an adapter's scalars know when the model is about to turn back, and does the model itself?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from pydantic import Field

from steerkit.context import Run
from steerkit.data.trace import Item, Span, Trace, spans_by_trace
from steerkit.errors import Problem
from steerkit.findings import Claim, Findings
from steerkit.parts import Experiment
from steerkit.report import words
from steerkit.settings import Intervals
from steerkit.stats.intervals import Estimate
from steerkit.training.arms import Arm
from steerkit.training.settings import Training
from steerkit.units.marks import Which
from steerkit.units.store import Scale
from steerkit_plugins.rank1_lora.arms import PairConfig, adapted, adapter_arm, unknown_models
from steerkit_plugins.rank1_lora.scalar_capture import Captured
from steerkit_plugins.rank1_lora.scalar_tables import Row, figure_of, lifts_of, table_of, units_of
from steerkit_plugins.rank1_lora.told import Told, Traces
from steerkit_plugins.trained.checks import unknown_label
from steerkit_plugins.trained.halved import ENDS, EVERY, WHERE
from steerkit_plugins.trained.numbers import above_zero, shown
from steerkit_plugins.trained.own_probabilities import Probabilities


class ScalarsConfig(PairConfig):
    how = frozenset({"batch_tokens"})

    label: str = "backtracking"
    """Label of the sentences that are to be told beforehand."""
    scale: Scale = "contribution"
    """`contribution`: a scalar times the length γ‖B‖ of what it adds, which does not depend on how an adapter is split
    into A and B; `raw`: the scalar A x as it is, which the authors use. No AUROC depends on it."""
    halves_seed: int = Field(default=0, ge=0)
    """Deals the traces into a half on which units are chosen and a probe is fitted, and one on which they are
    tested."""
    top: int = Field(default=10, ge=1)
    """Scalars in the tables, those that tell best on the choosing half."""
    strongest: int = Field(default=100, ge=1)
    """Sentence ends at which a scalar is strongest, among which each label's share is counted."""
    penalty: float = Field(default=1.0, gt=0)
    """Of the probe's squared weights, its numbers standardised: 1 / C of scikit-learn's LogisticRegression."""
    contexts: int = Field(default=50, ge=1)
    """Top contexts kept of each scalar and sign."""
    context_width: int = Field(default=30, ge=0)
    """Tokens kept on each side of a context."""
    contexts_per_trace: int = Field(default=4, ge=1)
    """Contexts of a scalar and sign that one trace may have."""
    context_least: float = Field(default=0.01, ge=0)
    """Numbers whose size is not above this, in the scale, are no contexts."""
    context_tokens: Literal["response", "all"] = "response"
    """Where contexts may be: in the response, or also in the prompt, whose first token often is an outlier."""
    batch_tokens: int = Field(default=8192, ge=1)
    """Padded tokens in a batch that is read."""


class Scalars(Experiment):
    """Which scalar tells that the model is about to turn back, and how well do they all, and the model itself?"""

    Config = ScalarsConfig
    uses = (Training, Intervals)

    def check(self, run: Run) -> Iterator[Problem]:
        yield from unknown_models(self.name, run, self.config)
        yield from unknown_label(f"{self.name}.label", self.config.label, run)

    def needs(self, run: Run) -> Sequence[str]:
        return ("unit-scalars", "turn-probabilities", "traces", "spans", "training")

    def arms(self, run: Run) -> Sequence[Arm]:
        return [adapter_arm(self.config)]

    def findings(
        self,
        run: Run,
        results: Any,
        scalars: Captured,
        probabilities: Probabilities,
        traces: list[Trace],
        spans: tuple[list[Span], Any],
        trained: Any,
    ) -> Findings:
        c, grouped = self.config, spans_by_trace(spans[0])
        items = [Item(trace, grouped.get(trace.id, ()), trace.tokens) for trace in traces]
        data = Traces(items, c, run.use(Intervals), run.seed)
        told: dict[str, dict[Which, Told | None]] = {}
        for name in adapted(run, c):
            told[name] = {where: data.tell(where, scalars[name]) for where in WHERE}
            run.progress(len(told), len(scalars))
        rows = self._rows(data, told, probabilities)
        ends = {name: own for name, each in told.items() if (own := each[ENDS]) is not None}
        return Findings(
            title="What the scalars know",
            question=f"Does a scalar of the adapter tell that a {c.label} sentence begins next?",
            finding=self._finding(rows),
            claims=(self._claim(data, list(told), probabilities),),
            figures=(figure_of(self.name, c.label, data, rows),),
            tables=(table_of(rows), *units_of(ends, c.top), *lifts_of(data, ends, c)),
            cautions=tuple(data.cautions(len(run.use(Training).training_seeds), "best scalars")),
            notes=tuple(self._notes(data)),
            value={"best": {name: _best(own) for name, own in ends.items()}},
        )

    def _rows(self, data: Traces, told: dict[str, dict[Which, Told | None]], probabilities: Probabilities) -> list[Row]:
        found = list[Row]()
        for what in ("best scalar", "probe on all scalars"):
            for name, own in told.items():
                known = {where: each for where, each in own.items() if each is not None}
                aurocs = {w: e.detected.tested if what == "best scalar" else e.probe for w, e in known.items()}
                found.append((what if len(told) == 1 else f"{what} of {name}", aurocs))
        for name in probabilities:
            aurocs = {where: data.contrast(where, [(1.0, probabilities[name])]) for where in WHERE}
            found.append((f"own probability of {name}", aurocs))
        return found

    def _finding(self, rows: Sequence[Row]) -> str:
        groups = dict[str, list[Estimate]]()
        for name, own in rows:
            if _known(own.get(ENDS)):
                groups.setdefault(_without_seed(name), []).append(own[ENDS])
        told = ", ".join(f"{name} {_range(own)}" for name, own in groups.items())
        if not told:
            return f"It cannot be told: too few {self.config.label} sentences."
        return f"AUROC that a {self.config.label} sentence begins next, among sentence ends: {told}; 0.5 is chance."

    def _claim(self, data: Traces, names: Sequence[str], probabilities: Probabilities) -> Claim:
        text = f"The adapter's own probability tells {self.config.label} better than the base's, among sentence ends"
        mean = [(1 / len(names), probabilities[name]) for name in names]
        ends, every = (
            data.contrast(where, [*mean, (-1.0, probabilities[self.config.base])]) for where in (ENDS, EVERY)
        )
        if not _known(ends) or words.missing(ends.low):
            return Claim(text=text, verdict="cannot be told", detail="too few traces with such a sentence")
        return above_zero(
            text, ends, 2, detail=f"n: traces; difference of AUROCs, paired by trace; over all tokens {shown(every, 2)}"
        )

    def _notes(self, data: Traces) -> Iterator[str]:
        counted = []
        for part, half in (("choosing", data.choosing), ("testing", data.testing)):
            (hits, ends), (_, tokens) = (data.counts(where, half) for where in WHERE)
            counted.append(
                f"{words.number(hits)} of {words.number(ends)} sentence ends ({words.number(tokens)} tokens, "
                f"{words.number(len(half))} traces) in the {part} half"
            )
        yield f"A {self.config.label} sentence follows {' and '.join(counted)}."
        yield (
            "Over all tokens a scalar that finds the ends of sentences looks like a discovery: sentences of any label "
            "begin there alone. Whether it knows which sentence comes is seen among sentence ends."
        )
        yield (
            "A model's own probability is Σ p(v | text so far) · w(v) over the vocabulary, w(v) the share of the "
            "choosing half's sentences beginning with token v that have the label: no list of words."
        )


def _best(told: Told) -> dict[str, Any]:
    d = told.detected
    ends = {"auroc": d.tested.mean, "low": d.tested.low, "high": d.tested.high}
    numbers = {name: None if words.missing(value) else value for name, value in ends.items()}
    return {"unit": told.units[d.best].name, "sign": d.sign, **numbers}


def _without_seed(name: str) -> str:
    """What trainings with other seeds have in common."""
    before, _, seed = name.rpartition(".")
    return before if seed.isdecimal() else name


def _range(own: Sequence[Estimate]) -> str:
    """One value with its interval; of several trainings the lowest and the highest."""
    if len(own) == 1:
        return shown(own[0], 2)
    low, high = (words.number(end(estimate.mean for estimate in own), 2) for end in (min, max))
    return f"{low} to {high}"


def _known(estimate: Estimate | None) -> bool:
    return estimate is not None and not words.missing(estimate.mean)
