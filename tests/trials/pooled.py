"""How often 95 % intervals of pooled figures hold the truth: `python tests/trials/pooled.py [--runs 4000] [--show]`.

Precision and kappa of two judges (`steerkit.stats.intervals.cluster_intervals`) and the AUROC of token scores
(`steerkit.stats.detection.auroc`), over traces that differ. Writes tests/trials/results_pooled.json and prints the
table of docs/statistics.md (`--show`: of the file as it is).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from steerkit.stats.agreement import pair_figures
from steerkit.stats.detection import auroc
from steerkit.stats.intervals import cluster_intervals

RESULTS = Path(__file__).parent / "results_pooled.json"
TRACES = (10, 32, 100)
RESAMPLES = 1000
Bounds = tuple[float, float]


def confusions(rng: np.random.Generator, traces: int) -> np.ndarray:
    """[C, 2, 2] sentences of each trace by two judges: both rates are the trace's own."""
    sentences, rate = rng.integers(6, 30, traces), rng.beta(1.0, 5.0, traces)
    found, wrong = rng.beta(6.0, 2.0, traces), rng.beta(1.0, 15.0, traces)
    own = rng.binomial(sentences, rate)
    both, other = rng.binomial(own, found), rng.binomial(sentences - own, wrong)
    return np.stack([both, own - both, other, sentences - own - other], axis=1).reshape(-1, 2, 2)


def judged(figure: int) -> tuple[float, Callable[[np.random.Generator, int], Bounds]]:
    """The truth over very many traces, and an interval of some; 0 is precision, 6 is kappa."""
    rng = np.random.default_rng(0)
    total = np.sum([confusions(rng, 100_000).sum(axis=0) for _ in range(20)], axis=0)

    def interval(rng: np.random.Generator, traces: int) -> Bounds:
        _, low, high = cluster_intervals(
            confusions(rng, traces),
            lambda sums: pair_figures(sums)[:, figure : figure + 1],
            confidence=0.95,
            resamples=RESAMPLES,
            seed=int(rng.integers(2**31)),
        )
        return float(low[0]), float(high[0])

    return float(pair_figures(total[None])[0, figure]), interval


def scored(rng: np.random.Generator, traces: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Scores of each trace's tokens, with a level of its own, and which tokens are hits."""
    hits = [rng.random(rng.integers(5, 60)) < 0.2 for _ in range(traces)]
    return [rng.normal(size=len(h)) + 0.7 * h + rng.normal() for h in hits], hits


def detected() -> tuple[float, Callable[[np.random.Generator, int], Bounds]]:
    """The same for AUROC: two normals of unit spread within and between traces, 0.7 apart."""
    from scipy.special import ndtr

    def interval(rng: np.random.Generator, traces: int) -> Bounds:
        found = auroc(*scored(rng, traces), resamples=RESAMPLES, seed=int(rng.integers(2**31)))
        return found.low, found.high

    return float(ndtr(0.7 / 2)), interval


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=4000, help="simulated runs a cell")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--show", action="store_true", help="print the table of the results that are there")
    args = parser.parse_args()
    if not args.show:
        figures = {"precision, BCa": judged(0), "kappa, BCa": judged(6), "AUROC, percentile": detected()}
        rows = [measure(what, *figure, n, args.runs) for what, figure in figures.items() for n in TRACES]
        args.out.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n", encoding="utf-8")
    rows = json.loads(args.out.read_text(encoding="utf-8"))
    print("| coverage, % | " + " | ".join(f"{n} traces" for n in TRACES) + " |\n" + "|---" * (len(TRACES) + 1) + "|")
    for what in dict.fromkeys(row["what"] for row in rows):
        shown = (f"{100 * row['coverage']:.1f} ± {100 * row['error']:.1f}" for row in rows if row["what"] == what)
        print(f"| {what} | " + " | ".join(shown) + " |")
    return 0


def measure(
    what: str, truth: float, interval: Callable[[np.random.Generator, int], Bounds], n: int, runs: int
) -> dict[str, Any]:
    rng, begun = np.random.default_rng(n), time.process_time()
    bounds = np.array([interval(rng, n) for _ in range(runs)])
    share = float(np.mean((bounds[:, 0] <= truth) & (truth <= bounds[:, 1])))
    return {
        "what": what,
        "n": n,
        "tried": runs,
        "coverage": share,
        "error": round((share * (1 - share) / runs) ** 0.5, 4),
        "width": round(float(np.nanmean(bounds[:, 1] - bounds[:, 0])), 4),
        "seconds": round(time.process_time() - begun, 1),
    }


if __name__ == "__main__":
    raise SystemExit(main())
