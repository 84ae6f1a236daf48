"""How often intervals over prompts and draws hold the truth: `python tests/trials/two_level.py [--runs 4000] [--show]`.

`steerkit.stats.two_level.contrast_interval` and others, on sets of one fixed condition less K draws of a control, and
of K draws less K others, all on the same prompts. Writes tests/trials/results_two_level.json and prints the tables of
docs/statistics.md (`--show`: of the file as it is).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steerkit.stats.intervals import mean_bounds, moments, pivot_bounds
from steerkit.stats.two_level import contrast_interval

RESULTS = Path(__file__).parent / "results_two_level.json"
PROMPTS = (32, 128)
DRAWS = (5, 10, 20)
CONTRASTS = ("true − draws", "draws − others")
BLOCK = 100

Shape = tuple[int, ...]
Row = dict[str, Any]
Bounds = tuple[np.ndarray, np.ndarray]
Parts = tuple[np.ndarray, np.ndarray]
"""[S, n, K] values of either side, the second with its sign; K is 1 for a fixed condition."""


# --- populations ------------------------------------------------------------------------------------------------------

Drawn = Callable[[np.random.Generator, Shape], np.ndarray]
Texts = Callable[[np.random.Generator, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Population:
    """Texts with a mean of level × prompt's part × draw's part.

    Attributes:
        prompt: parts of prompts. draw: parts of draws, of mean 1.
        texts: values of texts, of those means.
        means: of a fixed condition, of draws and of other draws.
        named: whether the interval has to hold on it; the others show where no interval can.
    """

    name: str
    prompt: Drawn
    draw: Drawn
    texts: Texts
    means: tuple[float, float, float]
    named: bool = True

    def parts(self, rng: np.random.Generator, sets: int, n: int, draws: int, fixed: bool) -> Parts:
        own, ours = self.prompt(rng, (sets, n, 1)), (sets, 1, draws)
        if fixed:
            return self.texts(rng, self.means[0] * own), -self.texts(rng, self.means[1] * own * self.draw(rng, ours))
        first, second = (self.texts(rng, mean * own * self.draw(rng, ours)) for mean in self.means[1:])
        return first, -second

    def truth(self, fixed: bool) -> float:
        return self.means[0] - self.means[1] if fixed else self.means[1] - self.means[2]


def same(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return np.ones(shape)


def beta(a: float) -> Drawn:
    """Between 0 and 3, of mean 1: the smaller `a`, the wider."""
    return lambda rng, shape: 3 * rng.beta(a, 2 * a, shape)


def gamma(variance: float) -> Drawn:
    """Of mean 1."""
    return lambda rng, shape: rng.gamma(1 / variance, variance, shape)


def one_in_ten(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Of mean 1; one does 24 times what others do."""
    return np.where(rng.random(shape) < 0.1, 7.3, 0.3)


def normal(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    return 1 + 0.5 * rng.normal(size=shape)


def noisy(rng: np.random.Generator, values: np.ndarray) -> np.ndarray:
    return values + rng.normal(size=values.shape)


def sentences(within: float) -> Texts:
    """Share of 4 to 12 sentences, beta-binomial: the larger `within`, the nearer texts are to their means."""

    def texts(rng: np.random.Generator, share: np.ndarray) -> np.ndarray:
        n, share = rng.integers(4, 13, share.shape), np.clip(share, 1e-6, 1 - 1e-6)  # betas of 0 or 1 there are none
        found: np.ndarray = rng.binomial(n, rng.beta(within * share, within * (1 - share))) / n
        return found

    return texts


def rates(variance: float) -> Texts:
    """Keywords a word in texts of 75 words, give or take 30 %; `variance`: of what a text makes of its rate."""

    def texts(rng: np.random.Generator, rate: np.ndarray) -> np.ndarray:
        words = np.maximum(5, np.round(rng.lognormal(np.log(75), 0.3, rate.shape)))
        found: np.ndarray = rng.poisson(words * rate * gamma(variance)(rng, rate.shape)) / words
        return found

    return texts


SHARES, FEW, RATES = (2 / 9, 1 / 9, 1 / 18), (0.15, 0.04, 0.02), (0.02, 0.01, 0.005)

POPULATIONS = (
    Population("normal, draws spread as prompts do", normal, normal, noisy, (1.5, 1.0, 0.5)),
    Population("shares, draws alike", beta(1), same, sentences(8), SHARES),
    Population("shares, draws spread as prompts do", beta(1), beta(1), sentences(8), SHARES),
    Population("shares, draws spread more", beta(1), beta(1 / 3), sentences(8), SHARES),
    Population("shares, interaction", beta(1), beta(4), sentences(0.7), SHARES),
    Population("shares, one draw in ten", beta(1), one_in_ten, sentences(8), FEW, named=False),
    Population("rates, draws alike", gamma(1), same, rates(0.1), RATES),
    Population("rates, draws spread as prompts do", gamma(1), gamma(1), rates(0.1), RATES),
    Population("rates, draws spread more", gamma(1), gamma(2), rates(0.1), RATES),
    Population("rates, interaction", gamma(1), gamma(0.1), rates(1.5), RATES),
    Population("rates, one draw in ten", gamma(1), one_in_ten, rates(0.1), RATES, named=False),
)


# --- intervals --------------------------------------------------------------------------------------------------------

USED = "both levels"
"""What steerkit uses, by its own code."""


class Levels:
    """S sets, and the parts of the variance of their estimates.

    Attributes:
        of: [S] estimates with the errors and skewness of S means of the prompts' contrasts.
        squares, cubes: [S, 1 + G] squared errors and third cumulants, of the prompts and of G groups of draws.
        twice: [S, G] squared errors by the interaction, which is in both.
        df: [1 + G] degrees of freedom.
    """

    def __init__(self, parts: Parts) -> None:
        drawn = [part for part in parts if part.shape[2] > 1]
        self.parts, self.prompts = parts, np.asarray(sum(part.mean(axis=2) for part in parts))
        levels = [moments(level) for level in (self.prompts, *(part.mean(axis=1) for part in drawn))]
        self.of, n = levels[0], self.prompts.shape[1]
        self.squares = np.stack([error**2 for _, error, _ in levels], axis=1)
        self.cubes = np.stack([skew * error**3 for _, error, skew in levels], axis=1)
        self.df = np.array([n - 1, *(part.shape[2] - 1 for part in drawn)])
        rests = [part - part.mean(2, keepdims=True) - part.mean(1, keepdims=True) for part in drawn]
        rests = [(rest + part.mean((1, 2), keepdims=True)) ** 2 for rest, part in zip(rests, drawn, strict=True)]
        self.twice = np.stack([rest.mean((1, 2)) for rest in rests], axis=1) / (self.df[0] * self.df[1:])

    def bounds(self, *, less: bool = True, skewed: Sequence[int] = (0,), fewest: bool = True) -> Bounds:
        """By variances less the interaction or not, the skewness of some levels, and the fewest degrees of freedom or
        Satterthwaite's (1946, Biometrics Bulletin 2:110)."""
        twice = self.twice * less
        square = np.maximum(self.squares.sum(1) - twice.sum(1), self.squares.max(1))
        below = (self.squares**2 / self.df).sum(1) + (twice**2 / (self.df[0] * self.df[1:])).sum(1)
        some = square > 0  # a set of equal values has an interval of no width
        df, skew = np.full(len(square), float(self.df.min())), np.zeros(len(square))
        if not fewest:
            np.divide(square**2, below, out=df, where=some)
        np.divide(self.cubes[:, list(skewed)].sum(1), square**1.5, out=skew, where=some)
        return pivot_bounds((self.of[0], np.sqrt(square), skew), df, 0.95)


def used(levels: Levels) -> Bounds:
    first, second = levels.parts
    found = [contrast_interval([(1, a), (1, b)], confidence=0.95) for a, b in zip(first, second, strict=True)]
    return np.array([each.low for each in found]), np.array([each.high for each in found])


def rows(levels: Levels) -> Bounds:
    """Every text as if it were a prompt of its own."""
    values = levels.parts[0] + levels.parts[1]
    return mean_bounds(values.reshape(len(values), -1), 0.95)


METHODS: dict[str, Callable[[Levels], Bounds]] = {
    USED: used,
    "draws' skewness too": lambda levels: levels.bounds(skewed=range(len(levels.df))),
    "no skewness": lambda levels: levels.bounds(skewed=()),
    "interaction left in": lambda levels: levels.bounds(less=False),
    "Satterthwaite's degrees of freedom": lambda levels: levels.bounds(fewest=False),
    "draws as if fixed": lambda levels: mean_bounds(levels.prompts, 0.95),
    "all rows pooled": rows,
}


# --- cells and tables -------------------------------------------------------------------------------------------------


def cells(population: Population, fixed: bool, prompts: int, draws: int, runs: int, seed: int) -> list[Row]:
    """A row a method: coverage, its Monte Carlo error, misses on either side, mean width by that of the one used."""
    rng, truth = np.random.default_rng([seed, fixed, prompts, draws]), population.truth(fixed)
    bounds: dict[str, list[np.ndarray]] = {name: [] for name in METHODS}
    for done in range(0, runs, BLOCK):
        levels = Levels(population.parts(rng, min(BLOCK, runs - done), prompts, draws, fixed))
        for name, method in METHODS.items():
            bounds[name].append(np.stack(method(levels)))
    together = {name: np.concatenate(found, axis=1) for name, found in bounds.items()}
    reference = float(np.mean(together[USED][1] - together[USED][0]))
    found = []
    for name, (low, high) in together.items():
        above, below = low > truth, high < truth
        share = 1 - float(np.mean(above | below))
        found.append(
            {
                "what": population.name,
                "named": population.named,
                "contrast": CONTRASTS[0 if fixed else 1],
                "n": prompts,
                "draws": draws,
                "method": name,
                "tried": runs,
                "coverage": round(share, 5),
                "error": round(float(np.sqrt(share * (1 - share) / runs)), 5),
                "too_low": round(float(below.mean()), 5),
                "too_high": round(float(above.mean()), 5),
                "width_by_used": round(float(np.mean(high - low)) / reference, 3),
            }
        )
    return found


def table(found: Sequence[Row]) -> str:
    """Markdown: coverage of the interval used, a line a population and contrast."""
    sizes = sorted({(row["n"], row["draws"]) for row in found})
    lines = ["| population | contrast | " + " | ".join(f"{n} × {k}" for n, k in sizes) + " |"]
    lines.append("|---" * (len(sizes) + 2) + "|")
    own = [row for row in found if row["method"] == USED]
    for what in dict.fromkeys(row["what"] for row in own):
        for contrast in CONTRASTS:
            by = {(r["n"], r["draws"]): r for r in own if (r["what"], r["contrast"]) == (what, contrast)}
            named = all(row["named"] for row in by.values())
            shown = " | ".join(f"{100 * by[size]['coverage']:.1f}" for size in sizes)
            lines.append(f"| {what if named else f'*{what}*'} | {contrast} | {shown} |")
    return "\n".join(lines)


def ranking(found: Sequence[Row]) -> str:
    """Markdown: each method over the named populations and both contrasts: least coverage, shortfall and width."""
    sizes = sorted({(row["n"], row["draws"]) for row in found})
    lines = ["| least coverage (mean shortfall from 95 %, mean width) | " + " | ".join(f"{n} × {k}" for n, k in sizes)]
    lines = [lines[0] + " |", "|---" * (len(sizes) + 1) + "|"]
    for method in METHODS:
        shown = []
        for size in sizes:
            own = [r for r in found if (r["n"], r["draws"]) == size and r["named"] and r["method"] == method]
            short = np.mean([max(0.0, 0.95 - r["coverage"]) for r in own])
            least, width = min(r["coverage"] for r in own), np.mean([r["width_by_used"] for r in own])
            shown.append(f"{100 * least:.1f} ({100 * short:.1f}, {width:.2f})")
        lines.append(f"| {method} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=4000, help="simulated sets a cell")
    parser.add_argument("--prompts", type=int, nargs="+", default=PROMPTS)
    parser.add_argument("--draws", type=int, nargs="+", default=DRAWS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--show", action="store_true", help="print the tables of the results that are there")
    args = parser.parse_args()
    if not args.show:
        made = [
            row
            for seed, population in enumerate(POPULATIONS)
            for fixed in (True, False)
            for prompts in args.prompts
            for draws in args.draws
            for row in cells(population, fixed, prompts, draws, args.runs, seed)
        ]
        args.out.write_text("[\n" + ",\n".join(json.dumps(row) for row in made) + "\n]\n", encoding="utf-8")
    found = json.loads(args.out.read_text(encoding="utf-8"))
    print(table(found), ranking(found), sep="\n\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
