"""What the judge says of the sampled features: shares of classes, and how well descriptions find texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from steerkit.findings import Bars, Claim, Figure, Table
from steerkit.report import words
from steerkit.stats.intervals import Estimate, mean_interval
from steerkit.units.collected import CollectedUnits
from steerkit_plugins.judges.llm_features import CLASSES, KINDS
from steerkit_plugins.trained.numbers import shown
from steerkit_plugins.transcoder.feature_judging import TESTS, Judged
from steerkit_plugins.transcoder.feature_shares import Share, Weighting, stratified_share

SCORES = ("accuracy", "precision", "recall")
MOST = 0.5
"""Share of features about reasoning from which on they are no minority."""


class JudgedFeatures:
    """The sample of all models, each model's blocks a stratum."""

    def __init__(
        self,
        judged: Sequence[Judged],
        features: Mapping[str, CollectedUnits],
        weighting: Weighting,
        confidence: float,
    ) -> None:
        self.asked = judged
        self.judged = [own for own in judged if own.label]
        self.weighting, self.confidence = weighting, confidence
        self.strata = [
            (model, layer, int((own.alive & (own.layer == layer)).sum()))
            for model, own in features.items()
            for layer in own.layout.layers
        ]

    def share(self, label: str, kind: str = "") -> Share:
        """Of a class, or one of its kinds, among all features that are alive."""
        own = [[j for j in self.judged if (j.model, j.layer) == (model, layer)] for model, layer, _ in self.strata]
        hits = [sum(j.label == label and (not kind or j.kind == kind) for j in part) for part in own]
        alive = [size for *_, size in self.strata]
        return stratified_share(hits, [len(part) for part in own], alive, self.weighting, self.confidence)

    def detection(self, test: str, number: int, label: str = "") -> Estimate:
        """Mean over features of accuracy (0), precision (1) or recall (2) in a test; of a class, or of all."""
        own = [
            values[number]
            for j in self.judged
            if (not label or j.label == label) and (values := (j.detection or {}).get(test)) is not None
        ]
        known = np.array([value for value in own if not np.isnan(value)])
        return mean_interval(known, confidence=self.confidence, bounds=(0.0, 1.0))

    def claim(self) -> Claim:
        """That features about reasoning are a minority."""
        share = self.share("reasoning")
        known = share.n > 0
        verdict = "holds" if share.high < MOST else "does not hold" if share.low >= MOST else "unclear"
        return Claim(
            text="Less than half of the features are about reasoning",
            verdict=verdict if known else "cannot be told",  # type: ignore[arg-type]  # one of them
            difference=f"{words.percent(share.value)} %" if known else "",
            interval=words.interval(share.low, share.high) if known else "",
            n=share.n,
            detail="share of features that are alive; n: judged features",
        )

    def finding(self, judge: str) -> str:
        """The classes in a sentence."""
        if not self.judged:
            return "No feature was put in a class."
        told = ", ".join(f"{label} {_percent(self.share(label))}" for label in CLASSES)
        return f"By {judge}, of all features that are alive: {told}."

    def figure(self, name: str) -> Figure:
        """A bar a class, and one a kind."""
        shares = {label: self.share(label) for label in CLASSES}
        kinds = {f"{label}: {kind}": self.share(label, kind) for label, own in KINDS.items() for kind in own if kind}
        return Figure(
            name=name,
            title="What the features are about",
            caption="Share of all features that are alive, by a judge that read a sample of each block"
            + (
                "; blocks count by their features."
                if self.weighting == "alive_weighted"
                else "; blocks count the same."
            ),
            heading=f"n = {len(self.judged)} features",
            panels=(_bars("Classes", shares), _bars("Kinds", kinds)),
            columns=2,
        )

    def tables(self) -> Iterator[Table]:
        """Classes, and detection."""
        rows = []
        for label in CLASSES:
            own = [j for j in self.judged if j.label == label]
            sure = np.mean([j.confidence for j in own]) if own else float("nan")
            rows.append((label, "", str(len(own)), _percent(self.share(label)), words.number(float(sure), 2)))
            for kind in filter(None, KINDS[label]):
                count = sum(j.kind == kind for j in own)
                rows.append((label, kind, str(count), _percent(self.share(label, kind)), words.NOTHING))
        yield Table(
            headings=("class", "kind", "judged", "share, %", "confidence"),
            left=2,
            rows=tuple(rows),
            title="What the features are about",
        )
        yield Table(
            headings=(
                "features",
                *(f"{what}, {test}" for test in TESTS for what in ("accuracy", "precision", "recall")),
            ),
            rows=tuple(
                (label or "all", *(self._cell(test, number, label) for test in TESTS for number in range(len(SCORES))))
                for label in ("", *CLASSES)
            ),
            title="Do the descriptions find texts?",
            note="strongest: strong contexts that the description was not made from; any: contexts drawn from all "
            "tokens at which the feature is active. Each against as many passages of other texts, from the same "
            "places, in which the feature is 0 throughout: chance is 0.5. Means over features.",
        )

    def _cell(self, test: str, number: int, label: str) -> str:
        found = self.detection(test, number, label)
        return words.NOTHING if words.missing(found.mean) else f"{shown(found, 2)}"


def _percent(share: Share) -> str:
    return words.NOTHING if not share.n else f"{words.percent(share.value)} {words.interval(share.low, share.high)}"


def _bars(title: str, shares: Mapping[str, Share]) -> Bars:
    def column(name: str) -> tuple[float | None, ...]:
        return tuple(100 * getattr(own, name) if own.n else None for own in shares.values())

    return Bars(
        title=title,
        ylabel="% of features",
        names=tuple(shares),
        values=column("value"),
        low=column("low"),
        high=column("high"),
    )
