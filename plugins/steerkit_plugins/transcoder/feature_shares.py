"""What share of all features is in a class, of a sample that is drawn block by block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Weighting = Literal["alive_weighted", "per_layer_equal"]
"""`alive_weighted`: blocks count by their features that are alive, so that the share is of all of these.
`per_layer_equal`: each block counts the same, as in the authors' code."""


@dataclass(frozen=True)
class Share:
    """A share with its interval, and the number of features that it rests on."""

    value: float
    low: float
    high: float
    n: int


def stratified_share(
    hits: Sequence[int], asked: Sequence[int], alive: Sequence[int], weighting: Weighting, confidence: float
) -> Share:
    """Σ w_l p_l of strata, with Wilson's interval for the effective sample size 1 / Σ w_l² / n_l (Kish 1965).

    Differences between strata make the true spread smaller, so that the interval is rather too wide.

    Args:
        hits, asked: by stratum, those in the class among those in any; strata of which none is in any are left out.
        alive: features of each that are alive.
    """
    from scipy.special import ndtri

    k, n, size = (np.asarray(values, float) for values in (hits, asked, alive))
    k, n, size = k[n > 0], n[n > 0], size[n > 0]
    if not len(n):
        return Share(float("nan"), float("nan"), float("nan"), 0)
    weight = size / size.sum() if weighting == "alive_weighted" else np.full(len(n), 1 / len(n))
    p, effective = float(weight @ (k / n)), float(1 / (weight**2 / n).sum())
    z = float(ndtri((1 + confidence) / 2))
    middle = (p + z**2 / (2 * effective)) / (1 + z**2 / effective)
    half = z / (1 + z**2 / effective) * np.sqrt(p * (1 - p) / effective + z**2 / (4 * effective**2))
    return Share(p, max(0.0, middle - half), min(1.0, middle + half), int(n.sum()))
