"""What a sample of features is about, by the experiment's judge, and how well its descriptions find texts: a step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from steerkit import registry
from steerkit.context import Run
from steerkit.data.placing import token_texts
from steerkit.data.trace import Trace
from steerkit.errors import Problem, SteerkitError
from steerkit.identity import spec_identity
from steerkit.parts import Step
from steerkit.stats.noise import key_of
from steerkit.training.settings import Training
from steerkit.units.collected import CollectedUnits
from steerkit_plugins.trained.examples import examples_text
from steerkit_plugins.trained.token_texts import TokenTexts
from steerkit_plugins.transcoder.arms import Diffing
from steerkit_plugins.transcoder.feature_config import FEATURES, FeaturesConfig, config_of
from steerkit_plugins.transcoder.feature_lens import FeatureLens, in_words
from steerkit_plugins.transcoder.feature_passages import Passage, Passages, scores
from steerkit_plugins.transcoder.feature_store import FeatureStore

TESTS = ("strongest", "any")
"""Held-out strongest contexts, and contexts drawn from all."""


@dataclass(frozen=True)
class Judged:
    """A feature of the sample.

    Attributes:
        model, column, layer: which it is.
        label, kind, confidence, description: as of the judge; `label` is empty without a usable answer.
        detection: test → (accuracy, precision, recall), where there were passages and an answer.
    """

    model: str
    column: int
    layer: int
    label: str = ""
    kind: str = ""
    confidence: float = 0.0
    description: str = ""
    detection: Mapping[str, tuple[float, float, float]] | None = None


class JudgeFeatures(Step):
    """``steps/feature-judgements.ARM.json``: classes, descriptions and detection scores of features that are alive.

    So many are drawn of each block and model. The judge keeps its answers in the run folder as they come, below
    ``judges/``.
    """

    uses = (Training, Diffing)

    def needs(self, run: Run) -> Sequence[str]:
        return ("traces", f"transcoder-features.{self.of}", f"feature-lens.{self.of}")

    def check(self, run: Run) -> Iterator[Problem]:
        spec = config_of(run).judge
        if spec and not hasattr(registry.get("judges", spec.name), "detect"):
            yield Problem(f"{FEATURES}.judge", f"the judge {spec.name!r} classes no features", "name llm-features")

    def depends(self, run: Run, *needs: Any) -> Any:
        c = config_of(run)
        judge = [spec_identity("judges", c.judge, f"judge {c.judge.name}")] if c.judge else []
        return [c.judged_per_block, c.examples, c.shown, c.tested, c.passage_before, c.passage_after, run.seed, *judge]

    def make(
        self, run: Run, traces: list[Trace], features: FeatureStore, lens: Mapping[str, FeatureLens]
    ) -> list[Judged]:
        c = config_of(run)
        if c.judge is None:
            raise SteerkitError(f"{FEATURES}.judge is null: no feature can be put in a class")
        tokens, texts = TokenTexts(run.models.tokenizer, traces), token_texts(run.models.tokenizer)
        asked = [
            (model, column, _shown(own, lens[model], column, tokens, texts, c, run.seed))
            for model, own in features.items()
            for column in sample_of(own, c.judged_per_block, run.seed, model)
        ]
        judge: Any = run.judge(c.judge)
        if estimate := judge.estimate([text for *_, text in asked]):
            run.log(judge=judge.name, estimate=estimate)
        described = judge.classify([text for *_, text in asked])
        run.log(classed_by=judge.name, features=len(asked), **judge.notes())
        found = [
            Judged(model, column, int(features[model].layer[column]))
            if own is None
            else Judged(
                model, column, int(features[model].layer[column]), own.label, own.kind, own.confidence, own.description
            )
            for (model, column, _), own in zip(asked, described, strict=True)
        ]
        return list(self._detected(run, judge, features, tokens, found))

    def _detected(
        self, run: Run, judge: Any, features: FeatureStore, tokens: TokenTexts, found: Sequence[Judged]
    ) -> Iterator[Judged]:
        c = config_of(run)
        tests: dict[tuple[int, str], list[Passage]] = {}
        readers = {model: Passages(features.active(model), c.passage_before, c.passage_after) for model in features}
        for number, own in enumerate(found):
            if not own.label:
                continue
            contexts = features[own.model].contexts(own.column)
            drawn = [context for part in features[own.model].quantiles(own.column, 1) for context in part]
            rng = np.random.default_rng(key_of(run.seed, "passages", own.model, own.column))
            drawn = [drawn[place] for place in rng.permutation(len(drawn))]
            for test, positives in zip(TESTS, (contexts[c.examples :], drawn), strict=True):
                passages = readers[own.model].test(own.column, positives, contexts[: c.examples], c.tested, rng)
                if passages:
                    tests[number, test] = passages
        asked = [
            (found[number].description, ["".join(tokens(p.trace, p.first, p.end)) for p in passages])
            for (number, _), passages in tests.items()
        ]
        answers = judge.detect(asked)
        run.log(detected_by=judge.name, tests=len(asked), **judge.notes())
        told: dict[int, dict[str, tuple[float, float, float]]] = {}
        for ((number, test), passages), answer in zip(tests.items(), answers, strict=True):
            if answer is not None:
                told.setdefault(number, {})[test] = scores(passages, answer)
        for number, own in enumerate(found):
            yield Judged(**{**vars(own), "detection": told.get(number, {})})

    def save(self, run: Run, value: Sequence[Judged]) -> Sequence[str]:
        return super().save(run, [_as_json(own) for own in value])

    def load(self, run: Run) -> list[Judged]:
        return [Judged(**{**row, "detection": _detection(row["detection"])}) for row in super().load(run)]


def sample_of(own: CollectedUnits, count: int, seed: int, model: str) -> list[int]:
    """So many features of each block, at most, drawn from those that are alive."""
    found = list[int]()
    for layer in own.layout.layers:
        alive = np.flatnonzero(own.alive & (own.layer == layer))
        rng = np.random.default_rng(key_of(seed, "features", model, layer))
        found += sorted(rng.permutation(alive)[:count].tolist())
    return found


def _shown(
    own: CollectedUnits,
    lens: FeatureLens,
    column: int,
    tokens: TokenTexts,
    texts: Sequence[str],
    config: FeaturesConfig,
    seed: int,
) -> str:
    """What the judge is shown of a feature."""
    name = f"{own.layout.unit(column)}"
    examples = examples_text(
        own.contexts(column), 1, tokens, count=config.examples, width=config.shown, seed=seed, name=name
    )
    likelier, unlikelier = (in_words(texts, ids[column], len(ids[column])) for ids in (lens.top, lens.bottom))
    return f"{examples}\n\nMakes likelier: {likelier}\nMakes less likely: {unlikelier}"


def _as_json(own: Judged) -> dict[str, Any]:
    found = asdict(own)
    found["detection"] = {
        test: [None if np.isnan(value) else value for value in values] for test, values in (own.detection or {}).items()
    }
    return found


def _detection(value: Mapping[str, Sequence[float | None]]) -> dict[str, tuple[float, float, float]]:
    def three(values: Sequence[float | None]) -> tuple[float, float, float]:
        accuracy, precision, recall = (float("nan") if each is None else float(each) for each in values)
        return accuracy, precision, recall

    return {test: three(values) for test, values in value.items()}
