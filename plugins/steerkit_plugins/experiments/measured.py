"""One metric of a vector and its controls: values by prompt and draw, and what follows from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from steerkit.data.draws import COVARIANCE, ELSEWHERE, IN_WORDS, OVER, WITHIN
from steerkit.findings import Bars, Claim, Table
from steerkit.judging.metrics import RunMetric
from steerkit.report import words
from steerkit.stats.intervals import Estimate
from steerkit.stats.two_level import contrast_interval
from steerkit.steps.results import Results
from steerkit_plugins.experiments.shares import Share, share_of

NONE, TRUE = "none", "judged labels"
CLAIMS = {
    "The label matters": (TRUE, OVER),
    "The place in the trace matters": (TRUE, WITHIN),
    "The trace matters": (WITHIN, OVER),
}
"""Claim → what must do more, and than what."""
SHORT = {NONE: "nothing", TRUE: "the vector", WITHIN: "shuffled\nwithin traces", OVER: "shuffled\nover traces"} | {
    ELSEWHERE: "label does\nnot follow",
    COVARIANCE: "windows'\ncovariance",
}


class Measured:
    """One metric of all conditions: values by prompt and draw, and what follows from them."""

    def __init__(self, results: Results, metric: RunMetric, margin: float) -> None:
        self.metric, self.margin, self.level, self.confidence = metric, margin, results.level, results.confidence
        columns: dict[str, list[np.ndarray]] = {}
        for condition in results.conditions:
            if not results.scored.is_broken(condition):
                own = results.scored.by_prompt(condition, metric)[1]
                columns.setdefault(str(condition.labels["control"]), []).append(own)
        self._shares: dict[tuple[str, str], Share | None] = {}
        self.values: Mapping[str, np.ndarray] = {name: np.stack(own, 1) for name, own in columns.items()}

    def has(self, *names: str) -> bool:
        """Whether there are values of all of these."""
        return all(name in self.values for name in names)

    def mean(self, name: str) -> Estimate:
        """Of a control over prompts and draws."""
        return contrast_interval([(1.0, self.values[name])], confidence=self.confidence, bounds=self.metric.limits)

    def fewer(self) -> Iterator[str]:
        """What rests on fewer prompts than there are: those that have a value under all of its draws."""
        for name, own in self.values.items():
            n = self.mean(name).n
            if n < len(own):
                yield f"{name_of(name)} on {n} of {len(own)}"

    def difference(self, one: str, other: str) -> Estimate:
        """One control minus another."""
        groups = [(1.0, self.values[one]), (-1.0, self.values[other])]
        return contrast_interval(groups, confidence=self.confidence, bounds=self.metric.difference)

    def share(self, one: str, other: str = NONE) -> Share | None:
        """(one − other) as a share of the vector's effect over unsteered; None where no effect is shown."""
        if not self.has(NONE, TRUE, one, other):
            return None
        if (one, other) not in self._shares:  # each is some eighty intervals
            four, sign = [self.values[name] for name in (one, other, TRUE, NONE)], self.metric.sign
            self._shares[one, other] = share_of(*four, sign=sign, confidence=self.confidence)
        return self._shares[one, other]

    def claims(self) -> Iterator[Claim]:
        """What was laid down beforehand, then what stands beside it."""
        name = words.named(self.metric)
        for text, (one, other) in CLAIMS.items():
            if self.has(NONE, TRUE, one, other):
                yield self._claim("claim", f"{text}: {name}, {name_of(one)} minus {name_of(other)}", one, other)
        for other in (kind for kind in self.values if kind not in (TRUE, *(o for _, o in CLAIMS.values()))):
            if self.has(TRUE):
                yield self._claim("beside", f"{capital(name)}, {name_of(TRUE)} minus {name_of(other)}", TRUE, other)

    def verdict(self, one: str, other: str) -> Literal["holds", "does not hold", "unclear", "cannot be told"]:
        """Holds: shown to do more. Does not: shown to do no more than the margin. Else unclear."""
        estimate, share = self.difference(one, other), self.share(one, other)
        if words.missing(estimate.mean):
            return "cannot be told"
        low = estimate.low if self.metric.sign > 0 else -estimate.high
        if low > 0 and not estimate.degenerate:
            return "holds"
        return "does not hold" if share is not None and share.high < self.margin else "unclear"

    def _claim(self, kind: Literal["claim", "beside"], text: str, one: str, other: str) -> Claim:
        estimate, share = self.difference(one, other), self.share(one, other)
        if words.missing(estimate.mean):
            return Claim(kind=kind, text=text, verdict="cannot be told" if kind == "claim" else "", n=estimate.n)
        return Claim(
            kind=kind,
            text=text,
            verdict=self.verdict(one, other) if kind == "claim" else "",
            difference=words.value(estimate.mean, self.metric, signed=True),
            interval="degenerate"
            if estimate.degenerate
            else words.interval(estimate.low, estimate.high, self.metric, signed=True),
            n=estimate.n,
            detail=f"{share.text()} of the vector's effect" if share and other != NONE else "",
        )

    def table(
        self, cosines: Mapping[str, Sequence[float]], lengths: Mapping[str, Sequence[float]], kinds: Sequence[str]
    ) -> Table:
        """A row a control: cosines, lengths as fitted, the draws' values, their mean, its share of the effect, what the
        vector adds."""
        rows = []
        for name in (name for name in (NONE, TRUE, *kinds) if name in self.values):
            estimate, draws = self.mean(name), np.nanmean(self.values[name], 0)
            own = name not in (NONE, TRUE)
            share = self.share(name) if own else None
            rows.append(
                (
                    name_of(name),
                    three(cosines[name], lambda value: words.number(value, 2)) if own else words.NOTHING,
                    words.number(np.median(lengths[name]), 2) if lengths.get(name) else words.NOTHING,
                    three(draws, lambda value: words.value(value, self.metric)) if own else words.NOTHING,
                    estimated(estimate, self.metric),
                    share.text() if share else words.NOTHING,
                    estimated(self.difference(TRUE, name), self.metric, signed=True) if name != TRUE else words.NOTHING,
                )
            )
        headings = (
            "added",
            "cosine with the vector: least, median, most",
            "length as fitted, share of the vector's (median)",
            "draws: least, median, most",
            f"mean, {self.level} interval",
            "share of the effect",
            "vector minus it",
        )
        title = f"{capital(words.named(self.metric))}, {words.unit(self.metric)}"
        return Table(headings=headings, rows=tuple(rows), title=title, strong=frozenset({1}))

    def bars(self, kinds: Sequence[str]) -> Bars:
        """A bar a control, those that know least first."""
        names = [name for name in (NONE, *reversed(kinds), TRUE) if name in self.values]
        found, scale = [self.mean(name) for name in names], words.factor(self.metric)

        def column(values: Sequence[float]) -> tuple[float | None, ...]:
            return tuple(None if np.isnan(value) else scale * value for value in values)

        return Bars(
            title=words.heading(self.metric),
            ylabel=words.cut(words.unit(self.metric)),
            names=tuple(SHORT.get(name, name) for name in names),
            values=column([each.mean for each in found]),
            low=column([each.low for each in found]),
            high=column([each.high for each in found]),
        )


def name_of(control: str) -> str:
    """A control in words."""
    return {NONE: "unsteered", **IN_WORDS}.get(control, control)


def capital(text: str) -> str:
    """A text that begins a line; a name of one letter stays as it is."""
    return text if len(text) < 2 else text[:1].upper() + text[1:]


def three(values: Sequence[float] | np.ndarray, shown: Callable[[float], str]) -> str:
    """Least, median, most."""
    if not len(values):
        return words.NOTHING
    return ", ".join(shown(float(value)) for value in (np.min(values), np.median(values), np.max(values)))


def estimated(estimate: Estimate, metric: RunMetric, *, signed: bool = False) -> str:
    """A value with its interval."""
    if words.missing(estimate.mean):
        return words.NOTHING
    interval = words.interval(estimate.low, estimate.high, metric, signed=signed)
    return f"{words.value(estimate.mean, metric, signed=signed)} {interval}"
