"""What is measured of an SAE on rows that it was not trained on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

Figure = tuple[float, float, float]
"""A value with the bounds of its interval over traces (BCa bootstrap); NaN where there is none."""


@dataclass(frozen=True)
class Measures:
    """Of one way of inference.

    Attributes:
        fvu: squared error as a share of the squared deviation from the rows' mean, in the numbers that the SAE reads.
        fvu_contribution: the same in contributions s · γ‖B‖, which SAEs that read different numbers have in common.
        l0: latents that are on at a token, mean.
        alive: latents that are on at any of the rows.
        latents: all.
        rows: number of rows.
    """

    fvu: Figure
    fvu_contribution: Figure
    l0: Figure
    alive: int
    latents: int
    rows: int

    @property
    def dead(self) -> float:
        """Share of the latents that are not on at any of the rows."""
        return 1 - self.alive / self.latents

    def to_json(self) -> dict[str, Any]:
        """JSON of it."""
        return {name: value if isinstance(value, int) else _plain(value) for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """What `to_json` gave."""
        fvu, contribution, l0 = (_number(value[name]) for name in ("fvu", "fvu_contribution", "l0"))
        return cls(fvu, contribution, l0, value["alive"], value["latents"], value["rows"])


def _plain(value: Figure) -> list[float | None]:
    """JSON has no NaN."""
    return [None if np.isnan(each) else each for each in value]


def _number(value: Iterable[float | None]) -> Figure:
    found = [float("nan") if each is None else each for each in value]
    return found[0], found[1], found[2]
