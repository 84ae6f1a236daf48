"""What a defence does to a model's mean gradients: with it, minus without it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steerkit.data.gradient_statistics import GradientStatistics
from steerkit.data.gradient_sums import cosine
from steerkit.data.site import Site
from steerkit.errors import SteerkitError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class GradientShift:
    """Δg = g with a defence - g without, of mean gradients over response tokens.

    Attributes:
        gradients: site → [D] float64.
        loss: what the defence adds to the loss.
    """

    gradients: Mapping[Site, Tensor]
    loss: float

    def cosine(self, site: Site, v: Tensor) -> float:
        """cos(-Δg, v): which way along v the defence turns training."""
        return -cosine(self.gradients[site], v)

    def alignment(self, site: Site, other: GradientShift) -> float:
        """cos(Δg, Δg of another defence)."""
        return cosine(self.gradients[site], other.gradients[site])


def shift(defended: GradientStatistics, plain: GradientStatistics) -> GradientShift:
    """The shift of the mean gradients of the same weights, responses and sites; prompts may differ.

    Differences token by token, whose spread can be told too, take a pass of their own
    (`steerkit.extraction.gradient_differences`).

    Raises:
        SteerkitError: weights, responses, sites or reductions differ.
    """
    for what, a, b in (
        ("weights", defended.meta.get("fingerprint"), plain.meta.get("fingerprint")),
        (
            "responses",
            (defended.rows, defended.tokens, defended.responses),
            (plain.rows, plain.tokens, plain.responses),
        ),
        ("sites", defended.sites, plain.sites),
        ("reductions", defended.reduction, plain.reduction),
    ):
        if a != b:
            raise SteerkitError(
                f"gradients with a defence and without it are of different {what} ({a} and {b}): read both with the "
                "same model, rows and options"
            )
    gradients = {site: defended.mean_gradient(site) - plain.mean_gradient(site) for site in plain.sites}
    return GradientShift(gradients, defended.loss - plain.loss)
