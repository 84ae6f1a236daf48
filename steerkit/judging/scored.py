"""The scores of a split by condition, prompt and sample, and their figures a prompt."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

import numpy as np

from steerkit.artifacts import Condition
from steerkit.data.generated import Score
from steerkit.errors import SteerkitError, nearest
from steerkit.judging.metrics import ACCURACY, RunMetric


class Scored:
    """All scored texts of a split.

    Args:
        scores: of all conditions.
        metrics: what the judges and the prompt source have figures of.
        broken: ids of conditions of which a text broke off (a value was not finite). The texts that are left would be
            a selection, so such a condition has no values at all.
    """

    def __init__(self, scores: Iterable[Score], metrics: Sequence[RunMetric], broken: Collection[str] = ()) -> None:
        self._by_id: dict[str, dict[tuple[str, int], Score]] = {}
        checked = False
        for score in scores:
            self._by_id.setdefault(score.condition, {})[score.prompt_id, score.sample] = score
            checked = checked or ACCURACY in score.values
        self._known, self._broken = tuple(metrics), frozenset(broken)
        self.metrics = tuple(metric for metric in metrics if checked or metric.name != ACCURACY)

    def is_broken(self, condition: Condition) -> bool:
        """Whether a text of the condition broke off."""
        return condition.id in self._broken

    def metric(self, name: str) -> RunMetric:
        """A metric by its name; accuracy too, where no answer could be checked. Raises: SteerkitError when none is."""
        found = {metric.name: metric for metric in self._known}
        if name not in found:
            raise SteerkitError(f"there is no metric {name!r}; {nearest(name, list(found))}")
        return found[name]

    def __getitem__(self, condition: Condition) -> dict[tuple[str, int], Score]:
        """(prompt, sample) → figures."""
        return self._by_id[condition.id]

    def by_prompt(
        self, condition: Condition, metric: RunMetric, *, plain: bool = False
    ) -> tuple[list[str], np.ndarray]:
        """Prompts, and a value a prompt: the mean over its samples, NaN where none has any.

        Args:
            plain: count collapsed texts as they are also where the metric counts them as their unsteered ones.
        """
        scores = self[condition]
        unsteered = self._by_id.get(replace(condition, interventions=()).id, scores)
        values: dict[str, list[float]] = {}
        for (prompt, sample), score in scores.items():
            if metric.plain and score.collapsed and not plain:
                score = unsteered[prompt, sample]
            values.setdefault(prompt, []).append(score.value(metric.plain or metric.name))
        prompts = sorted(values)
        return prompts, np.array([mean_of(values[p]) for p in prompts])


def perplexity(scores: Iterable[Score]) -> float:
    """exp of the mean negative log-likelihood a token; NaN where none was taken."""
    own = [(s.log_likelihood, s.tokens) for s in scores if s.log_likelihood is not None]
    tokens = sum(n for _, n in own)
    return math.exp(min(-sum(value for value, _ in own) / tokens, 700.0)) if tokens else float("nan")


def mean_of(values: Iterable[float]) -> float:
    """Mean of the values that are numbers; NaN where none is."""
    real = [v for v in values if not math.isnan(v)]
    return sum(real) / len(real) if real else float("nan")
