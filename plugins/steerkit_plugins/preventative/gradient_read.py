"""Gradients of several settings as numbers: by group of rows, and of all rows together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from steerkit.data.gradient_shift import shift
from steerkit.data.site import Site
from steerkit.settings import Intervals
from steerkit.stats.intervals import Estimate, mean_interval
from steerkit_plugins.preventative.arms import NONE
from steerkit_plugins.preventative.gradients import Gradients

if TYPE_CHECKING:
    from torch import Tensor


class Read:
    """What was read, and the vector.

    Args:
        directions: block → the vector's direction [H].
        layer: block that is steered.
    """

    def __init__(self, found: Gradients, directions: Mapping[int, Tensor], layer: int, intervals: Intervals) -> None:
        self.found, self.directions, self.layer, self.confidence = found, directions, layer, intervals.confidence
        self.site = Site(layer)
        self.total = {name: sum(own[1:], start=own[0]) for name, own in found.all_blocks.items()}
        self.moments = {name: sum(own[1:], start=own[0]) for name, own in found.moments.items()}
        self.blocks = [site.layer for site in self.total[NONE].sites]

    def pressure_of(self, name: str) -> np.ndarray:
        """[G] ⟨−g, v̂⟩ of each group's mean gradient."""
        v = self.directions[self.layer]
        return np.array([own.pressure(self.site, v) for own in self.found.all_blocks[name]])

    def loss_of(self, name: str) -> np.ndarray:
        """[G] loss of each group, nats a response token."""
        return np.array([own.loss for own in self.found.all_blocks[name]])

    def participation_of(self, name: str) -> np.ndarray:
        """[G] participation ratio of each group's changes of gradients."""
        return np.array([own.participation(self.site) for own in self.found.moments[name]])

    def estimate(self, values: np.ndarray) -> Estimate:
        """Of [G] values, with an interval over groups of rows."""
        return mean_interval(values, confidence=self.confidence)

    def cosine(self, name: str, block: int) -> float:
        """cos(−g, v) of the mean gradient at a block's output."""
        return self.total[name].cosine(Site(block), self.directions[block])

    def delta_cosine(self, name: str, block: int) -> float:
        """cos(Δ(−g), v) of the mean gradient's change."""
        return shift(self.total[name], self.total[NONE]).cosine(Site(block), self.directions[block])

    def alignment(self, one: str, other: str) -> float:
        """cos(Δg, Δg of another setting) of mean gradients at the steered block."""
        shifts = [shift(self.total[name], self.total[NONE]) for name in (one, other)]
        return shifts[0].alignment(self.site, shifts[1])
