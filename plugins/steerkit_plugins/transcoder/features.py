"""What do the features of a transcoder adapter respond to, and which of them tell that the model turns back?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from steerkit import registry
from steerkit.context import Run
from steerkit.data.placing import token_texts
from steerkit.data.trace import Span, Trace
from steerkit.errors import Problem, SteerkitError, nearest
from steerkit.findings import Claim, Findings
from steerkit.parts import Experiment
from steerkit.report import words
from steerkit.settings import Intervals, Labelling
from steerkit.stats.intervals import Estimate
from steerkit.training.arms import Arm
from steerkit.training.settings import Training
from steerkit.units.active_aurocs import column
from steerkit.units.marks import Which
from steerkit_plugins.trained.halved import ENDS, WHERE, HalvedTraces
from steerkit_plugins.trained.numbers import above_zero, shown
from steerkit_plugins.trained.own_probabilities import Probabilities
from steerkit_plugins.trained.token_texts import TokenTexts
from steerkit_plugins.transcoder.arms import Diffing, one_arm, problems
from steerkit_plugins.transcoder.feature_browser import needs_of, page_file
from steerkit_plugins.transcoder.feature_classes import JudgedFeatures
from steerkit_plugins.transcoder.feature_config import FeaturesConfig
from steerkit_plugins.transcoder.feature_judging import Judged
from steerkit_plugins.transcoder.feature_labels import FeatureLabels, halved
from steerkit_plugins.transcoder.feature_lens import FeatureLens, in_words
from steerkit_plugins.transcoder.feature_store import FeatureStore
from steerkit_plugins.transcoder.feature_words import (
    auroc_figure,
    auroc_table,
    best_tables,
    block_table,
    frequency_figure,
)

Row = tuple[str, Mapping[Which, Estimate]]


class Features(Experiment):
    """What does each feature respond to, and does one know that the model is about to turn back?"""

    Config = FeaturesConfig
    uses = (Training, Diffing, Intervals)
    rows = None
    steers = False

    def check(self, run: Run) -> Iterator[Problem]:
        yield from problems(self.name, run, self.config)
        with suppress(SteerkitError):  # the step `spans` says what is wrong with a judge
            judge = registry.build("judges", run.peek(Labelling).span_judge)
            labels = list(judge.labels())
            if labels and self.config.label not in labels:
                what = f"the span judge {judge.name!r} has no label {self.config.label!r}"
                yield Problem(f"{self.name}.label", what, nearest(self.config.label, labels))

    def arms(self, run: Run) -> Sequence[Arm]:
        return [one_arm(run, self.config)]

    def needs(self, run: Run) -> Sequence[str]:
        arm = one_arm(run, self.config).name
        return ("traces", "spans", "feature-probabilities", *needs_of(self.config, arm), f"feature-browser.{arm}")

    def findings(
        self,
        run: Run,
        results: None,
        traces: list[Trace],
        spans: tuple[list[Span], Any],
        probabilities: Probabilities,
        features: FeatureStore,
        labels: Mapping[str, FeatureLabels],
        lens: Mapping[str, FeatureLens],
        *judged: Any,
    ) -> Findings:
        c, data = self.config, halved(run, traces, spans)
        rows = self._rows(data, labels, probabilities)
        texts, tokens = token_texts(run.models.tokenizer), TokenTexts(run.models.tokenizer, traces)
        promoted = {model: [in_words(texts, ids) for ids in own.top] for model, own in lens.items()}
        pages = ", ".join(map(page_file, features))
        found = Findings(
            title="What the features respond to",
            question="What do the transcoders' features respond to, and does one tell that the model turns back?",
            finding=self._finding(features, rows),
            claims=(self._claim(data, features, labels, probabilities),),
            figures=(
                frequency_figure(f"{self.name}-frequency", features),
                auroc_figure(self.name, c.label, rows, len(data.testing)),
            ),
            tables=(
                block_table(features),
                auroc_table(rows),
                *best_tables(features, labels, tokens, promoted, c.top),
            ),
            cautions=tuple(data.cautions(len(run.use(Training).training_seeds), "features")),
            notes=(f"Every feature's contexts, lifts and logit lens are in {pages}: pages to search, sort and read.",),
            data={"features.csv": list(_table(features, labels, promoted))},
            value={"best": {model: _best(features, model, own) for model, own in labels.items() if ENDS in own.told}},
        )
        if c.judge is None:
            silent = "No judge was asked (`judge: null`), so nothing is said of what features are about."
            return replace(found, notes=(*found.notes, silent))
        return self._judged(run, found, features, judged[0])

    def _judged(self, run: Run, found: Findings, features: FeatureStore, judged: Sequence[Judged]) -> Findings:
        c = self.config
        own = JudgedFeatures(judged, features, c.sample_weighting, run.use(Intervals).confidence)
        lost = sum(not each.label for each in judged)
        untested = sum(not each.detection for each in own.judged)
        spec = c.judge
        name = str(spec.options.get("model") or spec.name) if spec else ""
        by_name = {(each.model, each.column): each for each in own.judged}
        rows = [
            {**row, "class": each.label if (each := by_name.get((row["model"], row["column"]))) else ""}
            for row in found.data["features.csv"]
        ]
        return replace(
            found,
            finding=f"{own.finding(name)} {found.finding}",
            claims=(own.claim(), *found.claims),
            figures=(own.figure(f"{self.name}-classes"), *found.figures),
            tables=(*own.tables(), *found.tables),
            cautions=(
                *found.cautions,
                "Classes and descriptions are a language model's reading of a few strong contexts of each; no one has "
                "checked them.",
                *([f"{lost} features have no usable answer and are in no class."] if lost else []),
                *(
                    [f"{untested} features have too few passages, with or without them, to be tested."]
                    if untested
                    else []
                ),
            ),
            data={"features.csv": rows},
        )

    def _rows(self, data: HalvedTraces, labels: Mapping[str, FeatureLabels], probabilities: Probabilities) -> list[Row]:
        found: list[Row] = [
            (f"best feature of {model}", {where: told.tested for where, told in own.told.items()})
            for model, own in labels.items()
        ]
        for name in probabilities:
            aurocs = {where: data.contrast(where, [(1.0, probabilities[name])]) for where in WHERE}
            found.append((f"own probability of {name}", aurocs))
        return found

    def _finding(self, features: FeatureStore, rows: Sequence[Row]) -> str:
        own = next(iter(features.values()))
        alive = [int(each.alive.sum()) for each in features.values()]
        counted = f"{alive[0]:,}" if len(set(alive)) == 1 else f"{min(alive):,} to {max(alive):,}"
        known = ", ".join(f"{name} {shown(each[ENDS], 2)}" for name, each in rows if _known(each.get(ENDS)))
        told = (
            f"AUROC that a {self.config.label} sentence begins next, among sentence ends: {known}; 0.5 is chance."
            if known
            else f"What comes next can't be told: too few {self.config.label} sentences."
        )
        return f"Of {own.layout.units:,} features {counted} are active at any token. {told}"

    def _claim(
        self,
        data: HalvedTraces,
        features: FeatureStore,
        labels: Mapping[str, FeatureLabels],
        probabilities: Probabilities,
    ) -> Claim:
        text = f"The best feature tells {self.config.label} better than the base's own probability, among sentence ends"
        unknown = Claim(text=text, verdict="cannot be told", detail="too few traces with such a sentence")
        if not all(ENDS in own.told for own in labels.values()):
            return unknown
        lengths = {trace: len(own.candidates) for trace, own in data.whole(ENDS).items() if trace in data.testing}
        terms = []
        for model, own in labels.items():
            told = own.told[ENDS]
            scores = column(features.active(model), told.best, lengths)
            terms.append((1 / len(labels), {trace: told.sign * each for trace, each in scores.items()}))
        ends = data.contrast(ENDS, [*terms, (-1.0, probabilities[self.config.base])])
        if not _known(ends) or words.missing(ends.low):
            return unknown
        return above_zero(text, ends, 2, detail="n: traces; difference of AUROCs on the testing half, paired by trace")


def _table(
    features: FeatureStore, labels: Mapping[str, FeatureLabels], promoted: Mapping[str, Sequence[str]]
) -> Iterator[dict[str, Any]]:
    """A row for each feature that is alive."""
    for model, own in features.items():
        told, frequency, added = labels[model], own.frequency, own.contribution
        for u in np.flatnonzero(own.alive).tolist():
            yield {
                "model": model,
                "feature": own.layout.unit(u).name,
                "column": u,
                "frequency": float(frequency[u]),
                "mean": float(own.mean[u]),
                "largest": float(own.largest[u]),
                "contribution": float(added[u]),
                **{f"auroc {w}": float(told.told[w].testing[u]) if w in told.told else None for w in WHERE},
                **{f"lift {label}": float(told.lifts[i, u]) for i, label in enumerate(told.labels)},
                "makes likelier": promoted[model][u],
            }


def _best(features: FeatureStore, model: str, labels: FeatureLabels) -> dict[str, Any]:
    told = labels.told[ENDS]
    numbers = {"auroc": told.tested.mean, "low": told.tested.low, "high": told.tested.high}
    known = {name: None if words.missing(value) else value for name, value in numbers.items()}
    return {"unit": features[model].layout.unit(told.best).name, "sign": told.sign, **known}


def _known(estimate: Estimate | None) -> bool:
    return estimate is not None and not words.missing(estimate.mean)
