"""One metric of models that are steered in several ways: values by prompt and training seed, or by prompt and draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from steerkit.judging.metrics import RunMetric
from steerkit.stats.intervals import Estimate, constant_interval
from steerkit.stats.two_level import contrast_interval
from steerkit.steps.results import Results
from steerkit_plugins.trained.measured import Measured, group_of


class Steered(Measured):
    """One metric of all ways of steering.

    Differences are paired by prompt and training seed. With several training seeds every seed has draws of its own, so
    that what draws add is in the spread over seeds. With one seed intervals cover other prompts and other draws.
    """

    def __init__(self, results: Results, metric: RunMetric) -> None:
        super().__init__(results, metric)
        seeds = max((own.shape[1] for own in self.values.values()), default=0)
        self.values = {way: own for way, own in self.values.items() if own.shape[1] == seeds}  # none has broken texts
        self.draws: Mapping[str, np.ndarray] = {}
        """Way → [prompts, draws], where there is one training seed; empty for several."""
        if all(own.shape[1] == 1 for own in self.values.values()):
            columns: dict[str, list[np.ndarray]] = {}
            for condition in results.conditions:
                if not results.scored.is_broken(condition):
                    own = results.scored.by_prompt(condition, metric)[1]
                    columns.setdefault(group_of(condition), []).append(own)
            self.draws = {way: np.stack(own, 1) for way, own in columns.items() if len(own) > 1}

    def mean(self, arm: str) -> Estimate:
        if arm not in self.draws:
            return super().mean(arm)
        return self._crossed([(1.0, self.draws[arm])], self.metric.limits)

    def difference(self, one: str, other: str) -> Estimate:
        if not {one, other} & self.draws.keys():
            return super().difference(one, other)
        groups = [(sign, self.draws.get(way, self.values[way])) for sign, way in ((1.0, one), (-1.0, other))]
        return self._crossed(groups, self.metric.difference)

    def _crossed(self, groups: Sequence[tuple[float, np.ndarray]], bounds: tuple[float, float]) -> Estimate:
        """Over prompts and draws; where all values agree, as `Measured` has it."""
        found = contrast_interval(groups, confidence=self.confidence, bounds=bounds)
        if found.degenerate and np.isfinite(bounds).all():
            return constant_interval(found, confidence=self.confidence, bounds=bounds)
        return found
