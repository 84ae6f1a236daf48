"""Additive sums of gradients over tokens, and how many dimensions the gradients spread over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

from steerkit.errors import SteerkitError, nearest

if TYPE_CHECKING:
    from torch import Tensor

Participation = Literal["spectrum", "centred", "coordinates"]
"""Of which numbers x the participation ratio (Σ x)² / Σ x² is: the eigenvalues of the tokens' second moments Σ g gᵀ
(from 1 to the smaller of tokens and D), those of their covariance, or the squared coordinates of the mean gradient
(from 1 to D)."""

KINDS = ("spectrum", "centred", "coordinates")


@dataclass(frozen=True)
class GradientSums:
    """Float64 sums over tokens of the gradients g [D] of one site; ``a + b`` sums over the tokens of both.

    Attributes:
        gradient: [D] Σ g.
        square: [] Σ |g|².
        count: [] number of tokens.
        cosines: [K] Σ w cos(-g, v) for each direction v; w is the token's weight in the loss.
        weight: [] Σ w over the tokens that have a gradient; a text's last token has none, and no cosine.
        moment: [D, D] Σ g gᵀ; None where it was not asked for.
    """

    gradient: Tensor
    square: Tensor
    count: Tensor
    cosines: Tensor
    weight: Tensor
    moment: Tensor | None = None

    def __add__(self, other: GradientSums) -> GradientSums:
        mine, theirs = self.tensors(), other.tensors()
        return GradientSums(**{name: mine[name] + theirs[name] for name in mine if name in theirs})

    def tensors(self) -> dict[str, Tensor]:
        """By name, those that there are."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in values if value is not None}

    def check_shapes(self, directions: int) -> None:
        """Raises: ValueError when the tensors don't belong together, or not to so many directions."""
        width = self.gradient.numel()
        wanted = {"gradient": (width,), "cosines": (directions,), "moment": (width, width)}
        for name, value in self.tensors().items():
            if tuple(value.shape) != wanted.get(name, ()):
                raise ValueError(f"{name} has the shape {tuple(value.shape)}, not {wanted.get(name, ())}")

    def participation(self, kind: Participation = "spectrum") -> float:
        """The participation ratio of the gradients: how many dimensions they spread over.

        It doesn't change when all gradients are scaled, nor (`coordinates` aside) when they are rotated. NaN where
        there is no gradient.

        Raises:
            SteerkitError: there is no such kind, or it takes second moments and these were not kept.
        """
        if kind not in KINDS:
            raise SteerkitError(f"participation: there is no {kind!r}; {nearest(kind, KINDS)}")
        if kind == "coordinates":
            squares = self.gradient.square()
            return float(squares.sum().square() / squares.square().sum())
        if self.moment is None:
            raise SteerkitError(
                f"participation {kind} takes the gradients' second moments, which were not kept for these tokens (they "
                "are for sites up to 4096 wide, and the tokens that `moments` names): ask for them, or take coordinates"
            )
        moment, trace = self.moment, self.square
        if kind == "centred":
            moment = moment - self.gradient.outer(self.gradient) / self.count
            trace = trace - self.gradient.square().sum() / self.count
        return float(trace.square() / moment.square().sum())


def cosine(a: Tensor, b: Tensor) -> float:
    """Of two vectors [D], in float64; NaN where one is zero."""
    a, b = a.double(), b.to(a.device).double()
    return float((a @ b) / (a.norm() * b.norm()))


def sums_of(tensors: Mapping[str, Tensor], directions: int) -> GradientSums:
    """From what `GradientSums.tensors` gave.

    Raises:
        TypeError, ValueError: these are not such tensors.
    """
    found = GradientSums(**tensors)
    found.check_shapes(directions)
    return found
