"""What shared prompts and shared random numbers are worth: `python tests/trials/pairing.py [--run FOLDER] [--show]`.

Of a run with several samples a prompt (the embedded pair, run here where no folder is named): how much narrower an
interval of steered minus unsteered is than with two independent sets of prompts, where both sides share the prompt
alone (another sample's random numbers), and where they share the random numbers too (the same sample). Writes
tests/trials/results_pairing.json and prints the table of docs/statistics.md (`--show`: of the file as it is).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from steerkit import registry
from steerkit.artifacts import PluginSpec
from steerkit.data.tokens import split_answer
from steerkit.interfaces import label_shares
from steerkit.judging.ask import annotate, metrics_of, score
from steerkit.store.files import read_whole_lines

RESULTS = Path(__file__).parent / "results_pairing.json"
SETTINGS = (
    "samples=4",
    "strengths=[30, 45, 60]",
    "prompts.choose=4",
    "experiments=[transfer]",
    "extractor.sweep=null",
)
METRICS = ("b", "judged sentences")


def make(folder: Path) -> None:
    words = [sys.executable, "-m", "steerkit", "recipe", "run", "backtracking", "--out", str(folder)]
    subprocess.run([*words, *(word for each in SETTINGS for word in ("--set", each))], check=True)


def narrower(steered: np.ndarray, unsteered: np.ndarray) -> tuple[float, float]:
    """Of figures [P, S]: by what share the same prompts, and the same random numbers too, make an interval narrower.

    An interval's width is as the standard deviation over prompts of one sample's difference, averaged (as variances)
    over samples.
    """

    def variance(values: np.ndarray) -> float:
        return float(values.var(axis=0, ddof=1).mean())

    apart = variance(steered) + variance(unsteered)
    shifts = range(1, steered.shape[1])
    prompts = float(np.mean([variance(steered - np.roll(unsteered, shift, axis=1)) for shift in shifts]))
    numbers = variance(steered - unsteered)
    if not apart:
        sys.exit("the figures of all prompts are the same: no interval can get narrower; give a run with more prompts")
    return 1 - (prompts / apart) ** 0.5, 1 - (numbers / apart) ** 0.5


def resampled(steered: np.ndarray, unsteered: np.ndarray, resamples: int) -> np.ndarray:
    """[2, 3] both shares and their difference: 95 % percentile intervals over prompts."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(steered), (resamples, len(steered)))
    shares = np.array([narrower(steered[rows], unsteered[rows]) for rows in drawn])
    shares = np.column_stack([shares, shares[:, 1] - shares[:, 0]])
    bounds: np.ndarray = np.quantile(shares, (0.025, 0.975), axis=0)
    return bounds


def figures(recipe: dict[str, Any], rows: Sequence[dict[str, Any]], metric: str) -> np.ndarray:
    """[P, S] figures of one condition's texts; those of empty texts are 0."""
    ordered = sorted(rows, key=lambda row: (row["prompt_id"], row["sample"]))
    texts = [split_answer(row["text"], recipe["think_end"])[0] for row in ordered]
    judge = registry.build("judges", PluginSpec(**recipe["score_judge" if metric == "b" else "span_judge"]))
    if metric == "b":
        name, scores = metrics_of(judge)[0].name, score(judge, texts)
    else:
        name, labels = recipe["fitter"]["label"], judge.labels()
        scores = [label_shares(spans, labels) for spans in annotate(judge, texts)]
    return np.array([own[name] if own else 0.0 for own in scores]).reshape(-1, recipe["samples"])


def measure(folder: Path, resamples: int) -> list[dict[str, Any]]:
    """A row a metric and strength, of the base-derived vector on the reasoning model."""
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    if recipe["samples"] < 2:
        sys.exit(f"{folder}: has one sample a prompt; give a run with --set samples=2 or more")
    by: dict[float, list[dict[str, Any]]] = {}
    for row in read_whole_lines(folder / "generations/test.jsonl"):
        vector = (row["method"], row["source"], row["layer"], row["pool"])
        own = row["method"] == "none" or vector == (recipe["fitter"]["name"], "base", recipe["layer"], "own")
        if row["target"] == "reasoning" and own:
            by.setdefault(row["strength"], []).append(row)
    rows = []
    for metric in METRICS:
        unsteered = figures(recipe, by[0.0], metric)
        for strength in sorted(by.keys() - {0.0}):
            steered = figures(recipe, by[strength], metric)
            prompts, numbers = narrower(steered, unsteered)
            found = np.column_stack([(prompts, numbers, numbers - prompts), *resampled(steered, unsteered, resamples)])
            names = ("same_prompts", "same_random_numbers", "random_numbers_alone")
            rows.append(
                {
                    "what": f"{metric}, strength {strength:g} minus unsteered",
                    "prompts": unsteered.shape[0],
                    "samples": unsteered.shape[1],
                    **dict(zip(names, found.round(4).tolist(), strict=True)),
                }
            )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a finished run with two samples a prompt or more")
    parser.add_argument("--resamples", type=int, default=2000, help="of the prompts")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--show", action="store_true", help="print the table of the results that are there")
    args = parser.parse_args()
    if not args.show:
        with tempfile.TemporaryDirectory() as folder:
            if not args.run:
                make(Path(folder) / "run")
            rows = measure(args.run or Path(folder) / "run", args.resamples)
        args.out.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n", encoding="utf-8")
    print("| interval narrower by, % | same prompts | and the same random numbers | which add |\n|---|---|---|---|")
    for row in json.loads(args.out.read_text(encoding="utf-8")):
        cells = (row["same_prompts"], row["same_random_numbers"], row["random_numbers_alone"])
        shown = ("{} [{}, {}]".format(*(round(100 * share) for share in cell)) for cell in cells)
        print(f"| {row['what']} | " + " | ".join(shown) + " |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
