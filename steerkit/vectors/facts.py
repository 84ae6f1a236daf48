"""What can be said of a direction from sums alone: how reliable it is, what it is without a fold, where it is long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from steerkit.data.statistics import ActivationStatistics
from steerkit.errors import SteerkitError
from steerkit.interfaces import VectorFitter

if TYPE_CHECKING:
    from torch import Tensor

SPLITS = 200
RAW_SPLITS = 20  # where each half is fitted to single windows anew


def split_half_cosines(
    fitter: VectorFitter, statistics: ActivationStatistics, *, splits: int | None = None, seed: int = 0
) -> np.ndarray:
    """Cosines of the directions that two halves of the traces give, halves being sets of whole folds.

    Args:
        statistics: with folds (`ActivationStatistics.drawn`).
        splits: ways to halve them, drawn at random; left out, `SPLITS`, or `RAW_SPLITS` for a fitter of single windows.

    Returns:
        [splits, L]; ways in which a half has no span of a group are left out. `reliability` makes it one of all traces.
    """
    main, drawn = statistics.at(tuple(fitter.config.window)), statistics.drawn
    found: list[np.ndarray] = []
    if drawn is None or drawn.folds < 2:
        return np.zeros((0, len(main.layers)))
    rng = np.random.Generator(np.random.Philox(seed))
    for _ in range(splits or (RAW_SPLITS if "raw" in fitter.needs else SPLITS)):
        order = np.argsort(rng.random(drawn.folds), kind="stable").tolist()
        halves = order[: drawn.folds // 2], order[drawn.folds // 2 :]
        try:
            one, other = (_stacked(fitter, statistics, half) for half in halves)
        except SteerkitError:  # a half without the label
            continue
        found.append(np.asarray(_cosines(one, other)))
    return np.array(found).reshape(-1, len(main.layers))


def reliability(cosine: np.ndarray) -> np.ndarray:
    """The cosine that a direction would have with one of as many other traces: 2c / (1 + c) of that of its halves, c.

    Spearman-Brown: what the halves share is counted once, what they don't is twice as much of a half's as of the whole.
    Halves that point apart have nothing that more traces could bring out: their cosine stays as it is.
    """
    return np.where(cosine > 0, 2 * cosine / (1 + np.maximum(cosine, 0)), cosine)


def left_out(fitter: VectorFitter, statistics: ActivationStatistics) -> list[tuple[Tensor, Tensor]] | None:
    """For each fold what the others give: unit directions [L, H] float32, and [L] where their windows' mean lies on
    them. None where they can't be had for each.
    """
    drawn = statistics.drawn
    if drawn is None or drawn.folds < 2:
        return None
    main, found = statistics.at(tuple(fitter.config.window)), []
    for fold in range(drawn.folds):
        others = [other for other in range(drawn.folds) if other != fold]
        try:
            direction = _stacked(fitter, statistics, others)
        except SteerkitError:
            return None
        direction = direction / direction.norm(dim=1, keepdim=True)
        found.append((direction.float(), (direction * drawn.of_folds(others, main).mean("all")).sum(1)))
    return found


def top_share(direction: Tensor) -> float:
    """Share of a direction's squared length that lies in its largest coordinate; 1/H where all are alike."""
    squares = direction.double().square()
    return float(squares.max() / squares.sum())


def cosine(one: Tensor, other: Tensor) -> float:
    """Of two directions [H]."""
    a, b = one.double(), other.double()
    return float(a @ b / (a.norm() * b.norm()))


def _stacked(fitter: VectorFitter, statistics: ActivationStatistics, folds: Sequence[int]) -> Tensor:
    """[L, H] of some folds. Raises: SteerkitError where no span in them has the label, or all have."""
    import torch

    drawn = statistics.drawn
    assert drawn is not None
    window = drawn.of_folds(folds, statistics.at(tuple(fitter.config.window)))
    for group in (fitter.config.label, f"rest:{fitter.config.label}"):
        window.mean(group)  # raises where a fitter of single windows need not
    return torch.stack(list(fitter.fit(window).values()))


def _cosines(one: Tensor, other: Tensor) -> Tensor:
    """[L] of [L, H]."""
    found: Tensor = (one * other).sum(1) / (one.norm(dim=1) * other.norm(dim=1))
    return found
