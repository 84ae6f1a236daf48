"""Named populations of one value a prompt, as b, judged shares and their paired differences are, with their true means.

Every one is a function of a generator and a shape [S, n]: S simulated runs over n prompts each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]


@dataclass(frozen=True)
class Population:
    """Where values come from.

    Attributes:
        named: whether the interval has to hold on it; the others show where no interval can.
        share: whether values lie in [0, 1].
    """

    name: str
    draw: Draw
    mean: float
    named: bool = True
    share: bool = True


def zero_inflated(zeros: float) -> Draw:
    """Zero for a share of prompts, else gamma (shape 2, mean 0.02)."""
    return lambda rng, shape: (rng.random(shape) >= zeros) * rng.gamma(2.0, 0.01, shape)


def _rate(rng: np.random.Generator, mean: float | np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Keywords a word in texts of 75 words, give or take 30 %."""
    words = np.maximum(5, np.round(rng.lognormal(np.log(75), 0.3, shape)))
    return rng.poisson(words * mean) / words


def over_dispersed(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Negative binomial counts (dispersion 0.5, one keyword in 100 words) over texts of different lengths."""
    return _rate(rng, rng.gamma(0.5, 0.01 / 0.5, shape), shape)


def sentences(a: float, b: float) -> Draw:
    """Share of 4 to 12 sentences, beta-binomial."""

    def draw(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
        n = rng.integers(4, 13, shape)
        return rng.binomial(n, rng.beta(a, b, shape)) / n

    return draw


def right(share: float) -> Draw:
    """0 or 1."""
    return lambda rng, shape: (rng.random(shape) < share).astype(float)


def clustered(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Mean of four 0-or-1 samples a prompt, with a chance of its own each: prompts are what is drawn."""
    return rng.binomial(4, rng.beta(0.5, 2.0, shape)) / 4


def collapsing(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """b, zero-inflated; one text in a hundred repeats the keyword over half of its length and more."""
    return np.where(rng.random(shape) < 0.01, rng.uniform(0.5, 1.0, shape), zero_inflated(0.7)(rng, shape))


def paired_rates(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """b steered (2 %) minus unsteered (0.5 %), with a tendency of each prompt's own in both."""
    own = rng.gamma(0.7, 1 / 0.7, shape)
    return _rate(rng, 0.02 * own, shape) - _rate(rng, 0.005 * own, shape)


def paired_shares(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Share of sentences, steered minus unsteered: half of the prompts take up to 0.4 of what is left."""
    share = rng.beta(0.5, 8.0, shape)
    raised = share + (1 - share) * (rng.random(shape) < 0.5) * rng.uniform(0, 0.4, shape)
    n = rng.integers(4, 13, shape)
    return (rng.binomial(n, raised) - rng.binomial(n, share)) / n


def tied(share: float) -> Draw:
    """No difference on a share of prompts, else normal around 0.02."""
    return lambda rng, shape: (rng.random(shape) >= share) * rng.normal(0.02, 0.03, shape)


POPULATIONS = (
    Population("zero-inflated: 70 % zeros, else gamma", zero_inflated(0.7), 0.3 * 0.02),
    Population("over-dispersed: negative binomial rate", over_dispersed, 0.01),
    Population("share of sentences, beta-binomial", sentences(0.5, 4.0), 0.5 / 4.5),
    Population("near its ceiling: mean share 0.95", sentences(4.0, 0.2), 4 / 4.2),
    Population("skewed: lognormal, sigma 1", lambda r, s: r.lognormal(0.0, 1.0, s), float(np.exp(0.5)), share=False),
    Population("right answers, 10 %", right(0.1), 0.1),
    Population("clustered: 4 samples a prompt", clustered, 0.2),
    Population("paired: rates, zero-inflated", paired_rates, 0.015, share=False),
    Population("paired: shares of sentences", paired_shares, 0.5 * 0.2 * 8 / 8.5, share=False),
    Population("paired: 80 % ties", tied(0.8), 0.004, share=False),
    Population("paired: 90 % ties", tied(0.9), 0.002, named=False, share=False),
    Population("95 % zeros, else gamma", zero_inflated(0.95), 0.05 * 0.02, named=False),
    Population("near constant: 2 % of prompts are 1", right(0.02), 0.02, named=False),
    Population("b with 1 % collapsed texts", collapsing, 0.99 * 0.3 * 0.02 + 0.01 * 0.75, named=False),
)
