"""How much of what full fine-tuning changes an adapter brings back, in held-out losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from steerkit.stats.intervals import Estimate
from steerkit.stats.two_level import contrast_interval
from steerkit_plugins.experiments.shares import Share
from steerkit_plugins.trained.recovered import gain

BASE, FULL = "base", "full"
ENDS = BASE, FULL


class Losses:
    """Held-out losses by model: nats a learned token.

    Args:
        rows: model → [learned tokens, loss per learned token] of each row.
        arms: arm → its models, one a training seed.
    """

    def __init__(
        self, rows: Mapping[str, Sequence[Sequence[float]]], arms: Mapping[str, Sequence[str]], confidence: float
    ) -> None:
        self.confidence = confidence
        tokens = np.array([row[0] for row in next(iter(rows.values()))])
        weight = tokens / tokens.mean()  # a row counts by its tokens: the mean is the loss per token
        self.values = {
            arm: np.stack([weight * np.array([row[1] for row in rows[name]]) for name in names], 1)
            for arm, names in arms.items()
        }
        """Arm → [rows, seeds]."""

    def mean(self, arm: str) -> Estimate:
        """Over rows and training seeds."""
        return contrast_interval([(1.0, self.values[arm])], confidence=self.confidence)

    def recovered(self, arm: str) -> Share | None:
        """(base − arm) / (base − full)."""
        return gain(self.values, arm, ENDS, -1, self.confidence) if FULL in self.values else None
