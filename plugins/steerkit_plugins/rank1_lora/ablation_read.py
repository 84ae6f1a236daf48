"""Ablations by text and training seed, and what follows from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from steerkit.stats.intervals import Estimate
from steerkit.stats.two_level import contrast_interval
from steerkit.units.divergence import Average

POSITIVE = (0.0, np.inf)


class Read:
    """Values [texts, training seeds] of each set of zeroed units, in nats per token; intervals cover both."""

    def __init__(self, found: Mapping[str, Any], average: Average, confidence: float) -> None:
        self.models = list(found.values())
        self.average, self.confidence = average, confidence
        first = self.models[0]["sets"]
        self.kinds: Mapping[str, str] = first["names"]
        self.units: Mapping[str, Sequence[str]] = first["units"]
        self.texts: Sequence[str] = first["texts"]

    def named(self, *kinds: str) -> list[str]:
        """Names of the sets of these kinds, kind after kind."""
        return [name for wanted in kinds for name, kind in self.kinds.items() if kind == wanted]

    def kl(self, name: str) -> np.ndarray:
        """[N, K] KL divergence without a set of units."""
        return self._stacked(lambda model: (model["sets"]["kl"][name], model["sets"]["counts"]))

    def loss(self, name: str) -> np.ndarray:
        """[N, K] cross-entropy of the text without a set of units, less the full model's."""
        return self._stacked(
            lambda model: (np.subtract(model["sets"]["ce"][name], model["sets"]["full"]), model["sets"]["counts"])
        )

    def alone(self, name: str) -> np.ndarray:
        """[N, K] sum of what a set's projections do one by one."""
        return np.asarray(sum(self.kl(unit) for unit in self.units[name]))

    def noise(self) -> float:
        """KL divergence that rounding alone gives."""
        return float(self._stacked(lambda model: (model["sets"]["noise"], model["sets"]["counts"])).mean())

    def mean(self, name: str) -> Estimate:
        """KL divergence without a set of units."""
        return self.estimate(self.kl(name), POSITIVE)

    def estimate(self, values: np.ndarray, bounds: tuple[float, float] = (-np.inf, np.inf)) -> Estimate:
        """The mean of [N, K] values."""
        return contrast_interval([(1.0, values)], confidence=self.confidence, bounds=bounds)

    def scale(self) -> dict[str, Estimate]:
        """KL divergences of whole models: name of the pair → its mean."""

        def of(name: str) -> Callable[[Any], tuple[Any, Any]]:
            return lambda model: (model["scale"]["kl"][name], model["scale"]["counts"])

        return {name: self.estimate(self._stacked(of(name)), POSITIVE) for name in self.models[0]["scale"]["kl"]}

    def curve(self) -> list[Estimate]:
        """KL divergence after each step of the removal, on texts that it was not chosen on; empty without one."""

        def after(step: int) -> Callable[[Any], tuple[Any, Any]]:
            return lambda model: (model["removal"]["curve"][step], model["removal"]["counts"])

        removal = self.models[0]["removal"]
        steps = len(removal["names"]) if removal else 0
        return [self.estimate(self._stacked(after(step)), POSITIVE) for step in range(steps)]

    def _stacked(self, summed: Callable[[Any], tuple[Any, Any]]) -> np.ndarray:
        """[N, K] of each model's sums and counts, [N]."""
        found = [summed(model) for model in self.models]
        return np.stack([per_text(sums, counts, self.average) for sums, counts in found], 1)


def per_text(sums: Any, counts: Any, average: Average) -> np.ndarray:
    """[N] values whose mean is the average, and whose spread is that of the average over other texts.

    Over all tokens the average is a ratio R of sums; a text's value is R and its residual, sum − R · count, per mean
    count (Cochran 1977, Sampling Techniques, chapter 6).
    """
    total, own = np.asarray(sums, float), np.asarray(counts, float)
    if average == "per_sequence":
        return total / own
    ratio = total.sum() / own.sum()
    return ratio + (total - ratio * own) / own.mean()
