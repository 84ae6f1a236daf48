"""The features that make a model turn back, and as many others of like contribution: a step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from steerkit.context import Run
from steerkit.data.trace import Item, Span, Trace
from steerkit.models.models import Models
from steerkit.parts import Step
from steerkit.stats.noise import key_of
from steerkit.training.settings import Training
from steerkit.units.collected import CollectedUnits
from steerkit.units.marks import marks_of
from steerkit_plugins.transcoder.arms import Diffing, one_arm
from steerkit_plugins.transcoder.feature_store import FeatureStore
from steerkit_plugins.transcoder.hesitation_choice import by_block, by_contexts, by_scores, drawn, matched
from steerkit_plugins.transcoder.hesitation_config import (
    CONTEXTS,
    LOGITS,
    RANDOM,
    HesitationConfig,
    config_of,
    models_looked_at,
)
from steerkit_plugins.transcoder.hesitation_scores import sums_at, toward


@dataclass(frozen=True)
class WordsPiece:
    """First tokens of the sentences with the label as a model reads them, and how often they are."""

    model: str
    counts: Mapping[int, int]


class HesitationFeatures(Step):
    """``steps/hesitation-features.json``: for each model the features chosen in each way, block by block.

    Model → `layers`; `alive`, `contribution` (sums over each block's features); `turns` (tokens right before a sentence
    with the label); `ways`: way → `chosen`, `matched`, `random` (features of each block; of the last two a list of
    draws) and the sums of their contribution (`chosen_contribution`, `matched_contribution`).
    """

    uses = (Training, Diffing)

    def needs(self, run: Run) -> Sequence[str]:
        return (f"transcoder-features.{one_arm(run, config_of(run)).name}", "traces", "spans", "training")

    def models(self, run: Run) -> Sequence[str]:
        return tuple(dict.fromkeys(run.models.origin(name) for name in models_looked_at(run)))

    def depends(self, run: Run, *needs: Any) -> Any:
        c = config_of(run)
        choice = [c.label, list(c.chosen_by), c.contexts, c.least, c.draws, c.near, RANDOM in c.kinds]
        mapped = [sorted(run.models.mapped(name).items()) for name in self.models(run)]
        return [models_looked_at(run), choice, c.random_features, mapped, run.seed]

    def pieces(
        self, run: Run, store: FeatureStore, traces: list[Trace], spans: tuple[list[Span], Any], trained: Any
    ) -> list[WordsPiece]:
        c, found = config_of(run), list[WordsPiece]()
        for name in models_looked_at(run) if LOGITS in c.chosen_by else ():
            items = run.models.items(name, traces, spans[0])
            before = tokens_before(items, c.label)
            places = ((item.ids, np.flatnonzero(before[item.trace.id])) for item in items)
            found.append(WordsPiece(name, Counter(ids[at + 1] for ids, own in places for at in own.tolist())))
        return found

    def work(self, models: Models, piece: WordsPiece) -> list[float]:
        return toward(models[piece.model], piece.counts).tolist()

    def join(
        self,
        run: Run,
        results: Iterable[list[float]],
        store: FeatureStore,
        traces: list[Trace],
        spans: tuple[list[Span], Any],
        trained: Any,
    ) -> dict[str, Any]:
        c, directions = config_of(run), list(results)
        found = dict[str, Any]()
        for number, name in enumerate(models_looked_at(run)):
            before = tokens_before(run.models.items(name, traces, spans[0]), c.label)
            scores = sums_at(store.active(name), before) * np.array(directions[number]) if directions else None
            found[name] = of_model(c, store[name], before, scores, key_of(run.seed, name))
            told = {way: sum(map(len, own["chosen"])) for way, own in found[name]["ways"].items()}
            run.log(hesitation=name, turns=found[name]["turns"], chosen=told)
        return found


def tokens_before(items: Sequence[Item], label: str) -> dict[str, np.ndarray]:
    """Trace → [T] bool: tokens of the reasoning that the first token of a sentence with the label follows."""
    return {trace: marks.hits for trace, marks in marks_of(items, label, "all tokens").items()}


def of_model(
    c: HesitationConfig, own: CollectedUnits, before: Mapping[str, np.ndarray], scores: np.ndarray | None, seed: int
) -> dict[str, Any]:
    """What the artifact says of a model.

    Args:
        before: trace → [T] bool, the tokens that a sentence with the label follows.
        scores: [U] by which features are chosen by logits; None where they are not.
        seed: of the matched and the random features.
    """
    counts = own.layout.counts
    strong = by_contexts(own, before, contexts=c.contexts, least=c.least)
    none = np.zeros_like(strong)
    ways = {CONTEXTS: strong, LOGITS: none if scores is None else by_scores(scores, own.alive, int(strong.sum()))}

    def contribution(which: np.ndarray) -> list[float]:
        return [float(part.sum()) for part in np.split(own.contribution * which, np.cumsum(counts)[:-1])]

    told = {}
    for way in c.chosen_by:
        chosen = ways[way]
        others = [
            matched(own.contribution, own.layer, own.alive, chosen, near=c.near, seed=key_of(seed, "matched", draw))
            for draw in range(c.draws)
        ]
        many = c.random_features or int(chosen.sum())
        told[way] = {
            "chosen": by_block(chosen, counts),
            "matched": [by_block(which, counts) for which in others],
            "random": [
                by_block(drawn(own.alive, chosen, many, key_of(seed, "random", draw)), counts)
                for draw in range(c.draws if RANDOM in c.kinds else 0)
            ],
            "chosen_contribution": contribution(chosen),
            "matched_contribution": [contribution(which) for which in others],
        }
    return {
        "layers": list(own.layout.layers),
        "alive": [int(part.sum()) for part in np.split(own.alive, np.cumsum(counts)[:-1])],
        "contribution": contribution(own.alive),
        "turns": int(sum(marks.sum() for marks in before.values())),
        "ways": told,
    }
