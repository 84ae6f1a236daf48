"""Whether the same batch plan gives the same texts, and what another batch size changes.

    python benchmarks/determinism.py [--size quick]

The embedded reasoning model, sampled as recipes/backtracking.yaml says, every prompt unsteered and steered at
each strength of the recipe:

- the same plan a second time: every text must be the same, byte for byte;
- the batch size halved, in float32: a row may differ only where the sampler's decision was as good as a tie.
  Sums in another order change logits by about 1e-7. For each differing row this shows the margin (in
  logits / T + noise) by which the first differing token led: all must be below 1e-5.
"""

from __future__ import annotations

import math
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from options import parser_of

from steerkit import registry
from steerkit.bench.measure import Result, machine, write
from steerkit.bench.table import text_table
from steerkit.context import Settings
from steerkit.data.chat_format import format_prompt
from steerkit.errors import SteerkitError
from steerkit.generation.sampling import Sampling
from steerkit.generation.stream import Generated, GenerationRow, generate
from steerkit.interventions.edits import Edit
from steerkit.models.language_model import LanguageModel
from steerkit.models.loading import load_model
from steerkit.recipe.load import load_recipe
from steerkit.settings import Chatting, Generating, Steering
from steerkit.stats.noise import key_of
from steerkit.steps.prompts import Prompts

MARGIN = 1e-5
SIZES = {"full": (24, 32, None), "quick": (6, 32, None), "smallest": (2, 4, 8)}  # prompts, rows a batch, new tokens


def make_rows(lm: LanguageModel, prompts: int) -> tuple[list[GenerationRow], Sampling, int]:
    """Rows, sampling and length, as the recipe has them, with a random unit vector."""
    recipe = load_recipe("backtracking")
    settings = Settings(recipe.shared)
    how, steering = settings.group(Generating), settings.group(Steering)
    source = registry.build("prompts", Prompts(**settings.own("prompts")).config.source)
    found = [p for p in source.read({"extract": 1, "choose": 1, "test": prompts}, recipe.seed) if p.split == "test"]
    direction = torch.nn.functional.normalize(torch.randn(lm.width, generator=torch.Generator().manual_seed(0)), dim=0)
    steerer = registry.get("steerers", "residual-add")()
    rows = []
    for strength in (0.0, *steering.nonzero):
        for p in found:
            edits = (Edit(steerer, steering.layer, strength, direction),) if strength else ()
            ids = format_prompt(lm.tokenizer, p.prompt, settings.group(Chatting).chat)
            rows.append(GenerationRow(ids, key_of(recipe.seed, "sample", p.id, 0), edits))
    return rows, Sampling(temperature=how.temperature), how.max_new_tokens


def run_plan(lm: LanguageModel, rows: list[GenerationRow], size: int, sampling: Sampling, new: int) -> list[Generated]:
    """All rows, `size` a batch, with margins."""
    found: list[Generated] = []
    for begin in range(0, len(rows), size):
        part = rows[begin : begin + size]
        found += generate(lm, part, max_new_tokens=new, margins=True, **sampling.model_dump())
    return found


def first_difference(a: Generated, b: Generated) -> int | None:
    """The step at which two texts of a row part, the end of one of them counted as a decision."""
    one, other = [*a.ids, *([-1] if a.finished else [])], [*b.ids, *([-1] if b.finished else [])]
    return next((i for i, (x, y) in enumerate(zip(one, other, strict=False)) if x != y), None)


def run(size: str = "full") -> list[Result]:
    """Measure and print."""
    prompts, batch, limit = SIZES[size]
    torch.set_num_threads(1)
    lm = load_model("pocket:reasoning")
    rows, sampling, new = make_rows(lm, prompts)
    new = limit or new
    whole = run_plan(lm, rows, batch, sampling, new)
    again = run_plan(lm, rows, batch, sampling, new)
    changed = sum(a.ids != b.ids or a.margins != b.margins for a, b in zip(whole, again, strict=True))
    tokens = sum(len(g.ids) for g in whole)
    print(f"{len(rows)} rows, {tokens} tokens, {sampling}: {changed} differ when the same plan runs again", flush=True)
    halved = run_plan(lm, rows, batch // 2, sampling, new)
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
    of = f"{len(rows)} rows, {tokens} tokens"
    return [
        figure("same plan again: rows that differ", [changed], 0, of),
        figure(
            "batch size halved: largest margin of a differing row",
            margins or [0.0],
            MARGIN,
            f"{len(margins)} of {of}, differ",
        ),
    ]


def figure(name: str, values: list[float], goal: float, note: str) -> Result:
    """The worst of some values, at most a goal.

    Raises:
        SteerkitError: there are none, or one is no number.
    """
    if not values or any(map(math.isnan, values)):
        raise SteerkitError(f"{name}: nothing was measured: {values}")
    worst = max(values)
    return Result(
        name=name,
        ratio=worst,
        low=min(values),
        high=worst,
        goal=goal,
        holds=worst <= goal,
        note=note,
        machine=machine(),
    )


def main() -> None:
    args = parser_of(__doc__).parse_args()
    results = run(args.size)
    print(text_table(results))
    write(results, args.out, keep=True)


if __name__ == "__main__":
    main()
