"""The sums of step `faithful-losses` as means with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from steerkit.report import words
from steerkit.stats.intervals import Estimate
from steerkit.stats.two_level import contrast_interval
from steerkit.units.divergence import Average
from steerkit_plugins.experiments.shares import Share
from steerkit_plugins.trained.recovered import gain
from steerkit_plugins.transcoder.arms import BASE, HYBRID, TARGET
from steerkit_plugins.transcoder.faithful_losses import PARTS

MLP = "mlp"


class Read:
    """Values of each model: [N texts, S training seeds], S 1 for what isn't trained.

    Args:
        losses: the artifact of the step.
        arms: arm → its models, one a training seed.
    """

    def __init__(
        self, losses: Mapping[str, Any], arms: Mapping[str, Sequence[str]], average: Average, confidence: float
    ) -> None:
        self._models, self._arms, self.average, self.confidence = losses["models"], arms, average, confidence
        self.counts = np.array(losses["counts"], float)
        self.n = len(self.counts)
        first = next(iter(self._models[own[0]] for own in arms.values()))
        self.depth = len(first["error"])
        self.parts = [n.removeprefix("kl.") for n in self._models.get(PARTS, {}) if n.startswith("kl.")]

    def has(self, arm: str) -> bool:
        """Whether there are values: of the hybrid only where the base's MLPs are among the parts."""
        return arm != HYBRID or MLP in self.parts

    def values(self, arm: str, kind: str, what: str = "full") -> np.ndarray:
        """[N, S] of ``kl`` or ``ce``; a part's where the arm is `parts`."""
        if arm == TARGET:
            own = [np.zeros(self.n) if kind == "kl" else self._of(next(iter(self._arms.values()))[0], "ce.target")]
        elif arm == BASE:
            own = [self._of(BASE, f"{kind}.whole")]
        elif arm in (HYBRID, PARTS):
            own = [self._of(PARTS, f"{kind}.{MLP if arm == HYBRID else what}")]
        else:
            own = [self._of(model, f"{kind}.{what}") for model in self._arms[arm]]
        return self._averaged(np.stack(own, 1) / self.counts[:, None], self.counts[:, None])

    def layers(self, arm: str, kind: str) -> np.ndarray:
        """[L, N, S] of ``active`` features or the ``ratio`` a token, or the ``error`` as a share of the squares."""
        models = [self._models[model] for model in self._arms[arm]]
        found = []
        for layer in range(self.depth):
            of = np.stack([each["size"][layer] if kind == "error" else self.counts for each in models], 1)
            found.append(self._averaged(np.stack([each[kind][layer] for each in models], 1) / of, of))
        return np.stack(found)

    def mean(self, values: np.ndarray) -> Estimate:
        """Over texts and training seeds."""
        return contrast_interval([(1.0, values)], confidence=self.confidence)

    def nats(self, arm: str) -> str:
        """An arm's divergence from the target."""
        return words.number(self.mean(self.values(arm, "kl")).mean, 4)

    def removed(self, arm: str) -> Share | None:
        """1 − KL / KL of the hybrid."""
        if not self.has(HYBRID):
            return None
        own = {name: self.values(name, "kl") for name in (arm, HYBRID, TARGET)}
        return gain(own, arm, (HYBRID, TARGET), -1, self.confidence)

    def removed_shares(self) -> dict[str, float]:
        """Arm → `removed`, for other experiments."""
        shares = {arm: self.removed(arm) for arm in self._arms}
        return {arm: share.value for arm, share in shares.items() if share is not None}

    def partials(self) -> list[str]:
        """Names of the partial replacements."""
        cuts = range(1, self.depth)
        return [*(f"first.{k}" for k in cuts), *(f"last.{k}" for k in cuts), *(f"one.{n}" for n in range(self.depth))]

    def worst_partial(self, arm: str) -> tuple[str, Estimate] | None:
        """The partial replacement that diverges most, in words, and how far all of the adapter is above it."""
        if self.depth < 2:
            return None
        worst = max(self.partials(), key=lambda what: self.values(arm, "kl", what).mean())
        difference = self.values(arm, "kl") - self.values(arm, "kl", worst)
        where, number = worst.split(".")
        told = f"block {number}" if where == "one" else f"the {where} {number}"
        return told, self.mean(difference)

    def active(self, arm: str) -> np.ndarray:
        """[N, S] active features a token and block, of the blocks that have a transcoder."""
        blocks = [layer for layer, n in enumerate(self._models[self._arms[arm][0]]["features"]) if n]
        return np.asarray(self.layers(arm, "active")[blocks].mean(0))

    def alive(self, arm: str) -> tuple[int, int]:
        """Features that were active somewhere, and how many there are, over trainings."""
        own = [self._models[model] for model in self._arms[arm]]
        return sum(int(sum(each["alive"])) for each in own), sum(int(sum(each["features"])) for each in own)

    def steepness(self, ladder: Sequence[str]) -> Estimate:
        """How much the active features fall at least from one rung to the next."""
        steps = [self.active(one) - self.active(other) for one, other in pairwise(ladder)]
        return self.mean(min(steps, key=np.mean))

    def _of(self, model: str, name: str) -> np.ndarray:
        return np.array(self._models[model][name], float)

    def _averaged(self, values: np.ndarray, of: np.ndarray) -> np.ndarray:
        """[N, S] ratios of texts, as values whose mean is the one that is asked for.

        Over all tokens that is a ratio R of sums. The values are linearised then: R + (value − R) · of / mean of.

        Args:
            of: [N, S] or [N, 1] what the ratios divide by: counted tokens, or the target's squares.
        """
        if self.average == "per_sequence":
            return values
        weight = of / of.mean(0)
        ratio = (values * weight).mean(0)
        return np.asarray(ratio + (values - ratio) * weight)
