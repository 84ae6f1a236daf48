"""What features tell of the sentence that comes next, without a judge of features: a step."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from steerkit.context import Run
from steerkit.data.trace import Item, Span, Trace, spans_by_trace
from steerkit.parts import Step
from steerkit.settings import Intervals
from steerkit.stats.intervals import Estimate
from steerkit.training.settings import Training
from steerkit.units.active_aurocs import ActiveAurocs, Question, active_aurocs, detect_active, question
from steerkit.units.active_store import ActiveStore
from steerkit.units.marks import Which
from steerkit.units.parts import save_parts
from steerkit_plugins.trained.halved import ENDS, WHERE, HalvedTraces
from steerkit_plugins.transcoder.arms import Diffing, models_of
from steerkit_plugins.transcoder.feature_config import FEATURES, config_of
from steerkit_plugins.transcoder.feature_store import FeatureStore

ARRAYS = ("choosing", "testing", "p")


@dataclass(frozen=True)
class Told:
    """How well each of U features tells that a sentence with the experiment's label begins next.

    Attributes:
        choosing, testing: [U] AUROC on the halves; below 0.5 where its being 0 tells.
        p: [U] on the testing half, in the direction of the choosing half, corrected over all features (Holm).
        best: column of the one that tells best on the choosing half.
        sign: 1, or -1 where its being 0 tells.
        tested: its AUROC on the testing half, with an interval over traces.
    """

    choosing: np.ndarray
    testing: np.ndarray
    p: np.ndarray
    best: int
    sign: int
    tested: Estimate


@dataclass(frozen=True)
class FeatureLabels:
    """What a model's features tell.

    Attributes:
        told: of the experiment's label, by which tokens count; without an entry where there is none to choose by.
        labels: of the traces' sentences, L of them.
        aurocs, lifts: [L, U] of each label among sentence ends of the testing half.
    """

    told: Mapping[Which, Told]
    labels: tuple[str, ...]
    aurocs: np.ndarray
    lifts: np.ndarray

    def save(self, path: Path) -> None:
        """Write a safetensors file, whole or not at all."""
        arrays = {"aurocs": self.aurocs, "lifts": self.lifts}
        arrays |= {f"{where}.{name}": getattr(own, name) for where, own in self.told.items() for name in ARRAYS}
        best = {where: [own.best, own.sign, asdict(own.tested)] for where, own in self.told.items()}
        save_parts(path, (arrays, {"told": json.dumps({"labels": self.labels, "best": best})}))

    @classmethod
    def load(cls, path: Path) -> Self:
        """What `save` wrote."""
        from safetensors import safe_open

        with safe_open(path, "np") as file:
            head = json.loads(file.metadata()["told"])
            told = {}
            for where, (best, sign, tested) in head["best"].items():
                own: dict[str, Any] = {name: file.get_tensor(f"{where}.{name}") for name in ARRAYS}
                told[where] = Told(**own, best=best, sign=sign, tested=Estimate(**tested))
            return cls(told, tuple(head["labels"]), file.get_tensor("aurocs"), file.get_tensor("lifts"))


class LabelFeatures(Step):
    """``features/MODEL.labels.safetensors``: lifts and AUROCs of all features of one arm's adapters.

    Its name is ``feature-labels.ARM``. Features are chosen on one half of the traces and tested on the other.
    """

    uses = (Training, Diffing, Intervals)

    def needs(self, run: Run) -> Sequence[str]:
        return ("traces", "spans", f"transcoder-features.{self.of}")

    def depends(self, run: Run, *needs: Any) -> Any:
        c = config_of(run)
        return [c.label, c.halves_seed, run.seed]

    def make(
        self, run: Run, traces: list[Trace], spans: tuple[list[Span], Any], features: FeatureStore
    ) -> dict[str, FeatureLabels]:
        data, found = halved(run, traces, spans), dict[str, FeatureLabels]()
        for model in features:
            found[model] = labels_of(data, features.active(model))
            run.progress(len(found), len(features))
        return found

    def save(self, run: Run, value: Mapping[str, FeatureLabels]) -> Sequence[str]:
        for model, own in value.items():
            own.save(run.folder / _file(model))
        return [_file(model) for model in value]

    def load(self, run: Run) -> dict[str, FeatureLabels]:
        return {name: FeatureLabels.load(run.folder / _file(name)) for name in models_of(run, run.arms[self.of])}


def halved(run: Run, traces: Sequence[Trace], spans: tuple[list[Span], Any]) -> HalvedTraces:
    """The run's traces in the experiment's halves."""
    c, grouped = config_of(run), spans_by_trace(spans[0])
    items = [Item(trace, grouped.get(trace.id, ()), trace.tokens) for trace in traces]
    return HalvedTraces(items, c.label, c.halves_seed, run.use(Intervals), run.seed)


def labels_of(data: HalvedTraces, store: ActiveStore) -> FeatureLabels:
    """What the units of a store tell."""
    asked: dict[tuple[str, ...], Question] = {}
    for where in WHERE:
        for name, half in (("choosing", data.choosing), ("testing", data.testing)):
            asked[where, name] = question(store, data.whole(where), half)
    for label in data.labels:
        asked[label,] = question(store, data.whole(ENDS, label), data.testing)
    found = dict(zip(asked, active_aurocs(store, list(asked.values())), strict=True))
    told = dict[Which, Told]()
    for where in WHERE:
        chosen, tested = found[where, "choosing"], found[where, "testing"]
        if not np.isnan(chosen.value).any():
            d = detect_active(store, data.whole(where), (chosen, tested), data.testing, **data.bootstrap)
            told[where] = Told(d.choosing, d.testing, d.p, d.best, d.sign, d.tested)
    own: list[ActiveAurocs] = [found[label,] for label in data.labels]
    none = np.zeros((0, store.units))
    return FeatureLabels(
        told,
        tuple(data.labels),
        np.stack([each.value for each in own]) if own else none,
        np.stack([each.lift for each in own]) if own else none,
    )


def _file(model: str) -> str:
    return f"{FEATURES}/{model}.labels.safetensors"
