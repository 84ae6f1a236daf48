"""A logistic probe: what all units together tell, fitted on one half of the traces."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

import numpy as np

from steerkit.errors import SteerkitError
from steerkit.units.marks import Marks

ROWS = 2**16
"""Tokens that a probe is fitted on, at most: all hits, and a draw of the others."""
STEPS = 100
TOLERANCE = 1e-8


@dataclass(frozen=True)
class Probe:
    """log-odds = (x - mean) / scale · weights + bias.

    Attributes:
        mean, scale: [U] of the tokens that it was fitted on.
        weights: [U], of the standardised numbers.
    """

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    bias: float

    def scores(self, x: np.ndarray) -> np.ndarray:
        """[T, U] → [T] log-odds, float64."""
        found: np.ndarray = ((x - self.mean) / self.scale) @ self.weights + self.bias
        return found


def fit_probe(
    values: Mapping[str, np.ndarray],
    marks: Mapping[str, Marks],
    traces: Set[str],
    *,
    penalty: float = 1.0,
    rows: int = ROWS,
    seed: int = 0,
) -> Probe:
    """Fit on the candidates of some traces, numbers standardised. A draw of non-hits moves the bias alone.

    Args:
        penalty: of the squared weights, as 1 / C of scikit-learn's LogisticRegression.
        rows: tokens, at most; hits are all kept.

    Raises:
        SteerkitError: there is no hit, or nothing else.
    """
    names = sorted(traces)
    hits, others = (sum(int(each.sum()) for each in _sides(marks, names, side)) for side in (True, False))
    if not hits or not others:
        raise SteerkitError(f"probe: {len(names)} traces have {hits} hits and {others} other tokens; it needs both")
    share = min(max(rows - hits, hits) / others, 1.0)
    rng, parts = np.random.default_rng(seed), []
    for name in names:
        kept = marks[name].hits | (marks[name].candidates & (rng.random(len(marks[name].hits)) < share))
        parts.append((values[name][kept].astype(np.float64), marks[name].hits[kept]))
    x, y = np.concatenate([own for own, _ in parts]), np.concatenate([own for _, own in parts])
    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale[scale == 0] = 1.0
    weights, bias = logistic((x - mean) / scale, y.astype(np.float64), penalty)
    return Probe(mean, scale, weights, bias)


def logistic(x: np.ndarray, y: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
    """Ridge logistic regression by Newton's method: minimises Σ log loss + penalty / 2 ‖w‖², the bias left free.

    Args:
        x: [N, U].
        y: [N] of 0 and 1, both there.

    Returns:
        [U] weights and the bias.
    """
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    ridge = np.full(x.shape[1], penalty)
    ridge[-1] = 0.0
    w = np.zeros(x.shape[1])

    def loss(w: np.ndarray) -> float:
        z = x @ w
        return float(np.logaddexp(0, z).sum() - z @ y + (ridge * w**2).sum() / 2)

    now = loss(w)
    for _ in range(STEPS):
        p = _sigmoid(x @ w)
        slope = x.T @ (p - y) + ridge * w
        step = np.linalg.solve((x.T * (p * (1 - p))) @ x + np.diag(ridge + 1e-12), slope)
        size = 1.0
        while loss(w - size * step) > now and size > 1e-6:  # a whole step can go too far
            size /= 2
        w = w - size * step
        now = loss(w)
        if np.abs(slope).max() < TOLERANCE * len(x):
            break
    return w[:-1], float(w[-1])


def _sigmoid(z: np.ndarray) -> np.ndarray:
    found: np.ndarray = 0.5 * (1 + np.tanh(z / 2))
    return found


def _sides(marks: Mapping[str, Marks], names: list[str], hits: bool) -> list[np.ndarray]:
    return [marks[name].hits if hits else marks[name].candidates & ~marks[name].hits for name in names]
