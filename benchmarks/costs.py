"""What extraction and steering cost beside the arithmetic of the embedded model, which has little of its own.

    python benchmarks/costs.py [--rounds 7] [--size quick] [--threads 1]

What `steerkit bench` measures, and beside it: extraction of the layer at a third of the depth alone, and a batch whose
rows are steered by four different steerers. Claims are made on a larger model: benchmarks/peers.py.
"""

from __future__ import annotations

import os
from dataclasses import replace

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from options import parser_of

from steerkit import registry
from steerkit.bench.costs import padded_forward, run_all
from steerkit.bench.measure import Question, Result, compare, machine, no_tick, settle, write
from steerkit.bench.sizes import SIZES, Sizes
from steerkit.bench.sweep import ending, make_sweep, third
from steerkit.bench.table import text_table
from steerkit.bench.traces import LABELS, random_traces
from steerkit.extraction.extract import extract
from steerkit.generation.sampling import Sampling
from steerkit.models.language_model import LanguageModel
from steerkit.models.loading import load_model
from steerkit.models.threads import fastest_thread_count

STEERERS = ("residual-add", "overall-mean", "gaussian-noise", "self-amplify")
SWEEP = (-40, 5)


def one_layer(lm: LanguageModel, sizes: Sizes) -> list[Result]:
    """Extraction of one layer: what runs after it is not paid for."""
    items = random_traces(lm.config.vocab_size, sizes.traces, sizes.trace_tokens)
    extractor = registry.get("extractors", "offset-window")(windows=[SWEEP])

    def extraction() -> int:
        extract(lm, items, extractor, LABELS, layers=[third(lm)])
        return sum(len(item.ids) for item in items)

    works = {
        "extraction": extraction,
        "forward": padded_forward(lm, items, max(sizes.trace_batches)),
    }
    name = f"{lm.name}: extraction of layer {third(lm)} alone / padded forward"
    return compare(works, [Question(name, "extraction", "forward", 0.45)], sizes.rounds)


def mixed(lm: LanguageModel, sizes: Sizes) -> list[Result]:
    """Four steerers in one batch, five strengths, against the same rows unsteered."""
    size = sizes.batch_sizes[-1]
    with ending(lm, None) as endless:
        sweep = make_sweep(
            endless,
            registry.get("steerers", STEERERS[0])(),
            prompts=1,
            conditions=size,
            new_tokens=sizes.new_tokens,
            sampling=Sampling(),
            prompt_tokens=sizes.prompt_tokens,
        )
        kinds = [registry.get("steerers", name)() for name in STEERERS]
        edits = []
        for number, edit in enumerate(sweep.edits):
            steerer = kinds[number % len(kinds)]
            direction = None if steerer.direction == "none" else edit.direction
            edits.append(replace(edit, intervention=steerer, direction=direction))
        sweep = replace(sweep, edits=edits)
        works = {
            "steered": lambda: sweep.by_steerkit(size),
            "unsteered": lambda: sweep.by_steerkit(size, steered=False),
        }
        name = f"{lm.name}: four steerers in a batch of {size} / the same rows unsteered"
        return compare(works, [Question(name, "steered", "unsteered", 1.05)], sizes.rounds)


def run(rounds: int, size: str = "full", threads: int = 0) -> list[Result]:
    """Measure everything."""
    sizes = replace(SIZES[size], rounds=rounds)
    extractor = registry.get("extractors", "offset-window")(windows=[SWEEP])
    lm = load_model("pocket:reasoning")
    settle(os.cpu_count() or 1)  # the most that the next line may choose
    settle(threads or fastest_thread_count(lm.width, max(sizes.batch_sizes)))
    print(f"{lm.name}: {lm.depth} blocks × {lm.width}; {machine()}", flush=True)
    results = run_all(lm, extractor, registry.get("steerers", "residual-add")(), Sampling(), sizes, no_tick)
    return [*results, *one_layer(lm, sizes), *mixed(lm, sizes)]


def main() -> None:
    args = parser_of(__doc__, rounds=7).parse_args()
    results = run(args.rounds, args.size, args.threads)
    print(text_table(results))
    write(results, args.out, keep=True)


if __name__ == "__main__":
    main()
