"""Whether the same batch plan gives the same texts, and what another batch size changes.

    python benchmarks/determinism.py [--prompts 24] [--batch 32]

The embedded reasoning model, sampled as recipes/backtracking.yaml says, every prompt unsteered and steered at
each strength of the recipe:

- the same plan a second time: every text must be the same, byte for byte;
- the batch size halved, in float32: a row may differ only where the sampler's decision was as good as a tie.
  Sums in another order change logits by about 1e-7. For each differing row this shows the margin (in
  logits / T + noise) by which the first differing token led: all must be below 1e-5.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

from steerkit import registry
from steerkit.bench.measure import Result, machine, write
from steerkit.bench.table import text_table
from steerkit.generation import Generated, GenerationRow, generate
from steerkit.loading import load_model
from steerkit.model import LanguageModel
from steerkit.noise import key_of
from steerkit.recipe import load_recipe
from steerkit.steering import Edit
from steerkit.tokens import format_prompt

MARGIN = 1e-5
RESULTS = Path(__file__).parent / "results.json"


def make_rows(lm: LanguageModel, prompts: int) -> tuple[list[GenerationRow], float, int]:
    """Rows, temperature and length, as the recipe has them, with a random unit vector."""
    recipe = load_recipe("backtracking")
    source = recipe.prompts.source.build("prompts")
    found = [p for p in source.read({"extract": 1, "choose": 1, "test": prompts}, recipe.seed) if p.split == "test"]
    direction = torch.nn.functional.normalize(torch.randn(lm.width, generator=torch.Generator().manual_seed(0)), dim=0)
    steerer = registry.get("steerers", "residual-add")()
    rows = []
    for strength in (0.0, *recipe.arguments().nonzero):
        for p in found:
            edit = Edit(steerer, recipe.layer, strength, direction) if strength else None
            ids = format_prompt(lm.tokenizer, p.prompt, recipe.chat)
            rows.append(GenerationRow(ids, key_of(recipe.seed, "sample", p.id, 0), edit))
    return rows, recipe.temperature, recipe.max_new_tokens


def run_plan(lm: LanguageModel, rows: list[GenerationRow], size: int, temperature: float, new: int) -> list[Generated]:
    """All rows, `size` a batch, with margins."""
    found: list[Generated] = []
    for begin in range(0, len(rows), size):
        found += generate(lm, rows[begin : begin + size], max_new_tokens=new, temperature=temperature, margins=True)
    return found


def first_difference(a: Generated, b: Generated) -> int | None:
    """The step at which two texts of a row part, the end of one of them counted as a decision."""
    one, other = [*a.ids, *([-1] if a.finished else [])], [*b.ids, *([-1] if b.finished else [])]
    return next((i for i, (x, y) in enumerate(zip(one, other, strict=False)) if x != y), None)


def run(prompts: int = 24, batch: int = 32) -> list[Result]:
    """Measure and print."""
    torch.set_num_threads(1)
    lm = load_model("pocket:reasoning")
    rows, temperature, new = make_rows(lm, prompts)
    whole = run_plan(lm, rows, batch, temperature, new)
    again = run_plan(lm, rows, batch, temperature, new)
    changed = sum(a.ids != b.ids or a.margins != b.margins for a, b in zip(whole, again, strict=True))
    tokens = sum(len(g.ids) for g in whole)
    print(
        f"{len(rows)} rows, {tokens} tokens, T={temperature}: {changed} differ when the same plan runs again",
        flush=True,
    )
    halved = run_plan(lm, rows, batch // 2, temperature, new)
    margins = []
    for number, (a, b) in enumerate(zip(whole, halved, strict=True)):
        step = first_difference(a, b)
        if step is not None:
            margins.append(max(a.margins[step], b.margins[step]))
            print(f"    row {number}: parts at token {step}, margin {a.margins[step]:.1e} and {b.margins[step]:.1e}")
    same = [(a, b) for a, b in zip(whole, halved, strict=True) if a.ids == b.ids]
    moved = max((abs(x - y) for a, b in same for x, y in zip(a.margins, b.margins, strict=True)), default=0.0)
    smallest = min(min(g.margins) for g in whole)
    print(
        f"batches of {batch // 2} for {batch}: {len(margins)} rows differ, largest margin {max(margins, default=0):.1e}"
    )
    print(f"    in the others no decision's margin moved by more than {moved:.1e}; the smallest is {smallest:.1e}")
    return [
        figure("same plan again: rows that differ", [changed], 0),
        figure("batch size halved: largest margin of a differing row", margins or [0.0], MARGIN),
    ]


def figure(name: str, values: list[float], goal: float) -> Result:
    """The worst of some values, at most a goal."""
    worst = max(values)
    return Result(
        name=name, ratio=worst, low=min(values), high=worst, goal=goal, holds=worst <= goal, machine=machine()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--batch", type=int, default=32)
    args = parser.parse_args()
    results = run(args.prompts, args.batch)
    print(text_table(results))
    write(results, RESULTS, keep=True)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
