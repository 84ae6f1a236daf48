"""How often nominal 95 % intervals of a mean hold the truth: `python tests/trials/coverage.py [--runs 4000] [--show]`.

Candidate methods on named populations at several numbers of prompts; each cell is that many simulated runs. Writes
tests/trials/results_statistics.json and prints the tables of docs/statistics.md (`--show`: of the file as it is).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from candidates import CANDIDATES, USED, Resampled
from populations import POPULATIONS, Population

RESULTS = Path(__file__).parent / "results_statistics.json"
PROMPTS = (10, 32, 100)
GOAL, AT = 0.93, 100
BLOCK = 250
"""Runs that share their resamples."""

Row = dict[str, Any]


def cells(population: Population, prompts: int, runs: int, resamples: int, seed: int) -> list[Row]:
    """A row a method: coverage, its Monte Carlo error, misses on either side, mean width by the t interval's."""
    rng, resampling = np.random.default_rng([seed, prompts]), np.random.default_rng([seed, prompts, 1])
    begun = time.process_time()
    bounds: dict[str, list[np.ndarray]] = {name: [] for name in CANDIDATES if population.share or name != "Wilson"}
    for _ in range(0, runs, BLOCK):
        drawn = Resampled(population.draw(rng, (BLOCK, prompts)), resampling, resamples)
        for name in bounds:
            bounds[name].append(np.stack(CANDIDATES[name](drawn)))
    seconds = time.process_time() - begun
    together = {name: np.concatenate(found, axis=1) for name, found in bounds.items()}
    reference = float(np.mean(together["t"][1] - together["t"][0]))
    rows = []
    for name, (low, high) in together.items():
        above, below = low > population.mean, high < population.mean
        share = 1 - float(np.mean(above | below))
        rows.append(
            {
                "what": population.name,
                "named": population.named,
                "n": prompts,
                "method": name,
                "tried": len(low),
                "coverage": round(share, 5),
                "error": round(float(np.sqrt(share * (1 - share) / len(low))), 5),
                "too_low": round(float(below.mean()), 5),
                "too_high": round(float(above.mean()), 5),
                "width": round(float(np.mean(high - low)), 8),
                "width_by_t": round(float(np.mean(high - low)) / reference, 3),
                "seconds": round(seconds, 2),
            }
        )
    return rows


def table(rows: Sequence[Row], prompts: int) -> str:
    """Markdown: a line a population, coverage in percent and mean width by the t interval's."""
    own = [row for row in rows if row["n"] == prompts]
    lines = [f"| n = {prompts} | " + " | ".join(CANDIDATES) + " |", "|---" * (len(CANDIDATES) + 1) + "|"]
    for what in dict.fromkeys(row["what"] for row in own):
        by = {row["method"]: row for row in own if row["what"] == what}
        shown = (f"{100 * by[m]['coverage']:.1f} ({by[m]['width_by_t']:.2f})" if m in by else "–" for m in CANDIDATES)
        lines.append(f"| {what if by[USED]['named'] else f'*{what}*'} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def ranking(rows: Sequence[Row], prompts: int) -> str:
    """Markdown: each method over the named populations that it can be used on: worst coverage, shortfall, width."""
    lines = [f"| named populations, n = {prompts} | least coverage | mean shortfall from 95 % | mean width |"]
    lines.append("|---|---|---|---|")
    for method in CANDIDATES:
        own = [r for r in rows if r["n"] == prompts and r["named"] and r["method"] == method]
        short = np.mean([max(0.0, 0.95 - r["coverage"]) for r in own])
        width = np.mean([r["width_by_t"] for r in own])
        least = min(r["coverage"] for r in own)
        lines.append(f"| {method} | {100 * least:.1f} | {100 * short:.2f} | {width:.2f} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=4000, help="simulated runs a cell")
    parser.add_argument("--resamples", type=int, default=1000, help="of the bootstraps")
    parser.add_argument("--prompts", type=int, nargs="+", default=PROMPTS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--show", action="store_true", help="print the tables of the results that are there")
    args = parser.parse_args()
    if not args.show:
        rows = [
            row
            for seed, population in enumerate(POPULATIONS)
            for prompts in args.prompts
            for row in cells(population, prompts, args.runs, args.resamples, seed)
        ]
        args.out.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n", encoding="utf-8")
    rows = json.loads(args.out.read_text(encoding="utf-8"))
    for prompts in sorted({row["n"] for row in rows}):
        print(table(rows, prompts), ranking(rows, prompts), sep="\n\n", end="\n\n")
    used = [r for r in rows if (r["method"], r["n"], r["named"]) == (USED, AT, True)]
    missed = [r["what"] for r in used if r["coverage"] + 2 * r["error"] < GOAL]
    for what in missed:
        print(f"{USED} is below {GOAL:.0%} at n = {AT} by more than two Monte Carlo errors: {what}")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
