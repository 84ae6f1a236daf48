"""steerkit beside the floor and other libraries: same model object, same ids, results equal before they are timed.

    pip install -r of benchmarks/requirements.txt (see there), then
    python benchmarks/peers.py [--rounds 5] [--only extraction|saving|sweep|unequal|hook] [--size quick]

A random Llama of SmolLM2-135M's shape, float32, in one process; every round does each side once. Where the whole
of a peer's work would take hours, a part of it is done and scaled by the number of reads or of tokens: the note
beside each figure says so. A library that is not installed is left out.

extraction, 64 traces of about 500 tokens, all layers × 46 offsets × 6 labels, against
- the floor: a decoder forward of the traces as they come, right-padded in batches of the best size, without LM head,
  cache and mask;
- steering-vectors as its API reads: one text for each span and offset (a part of them);
- nnsight saving every block's output, then one gather and one product a layer, without a mask: in a single pass over
  all traces, padded; and in many, sorted by length in batches of the best size, which is what steerkit does itself.

sweep, 8 prompts × 48 conditions × 64 new tokens, greedy, against
- the floor: an unsteered `model.generate` of the same prompts, at its best batch size;
- nnsight, one prompt and condition at a time (the way of the code behind the paper);
- steering-vectors and repeng, one condition at a time, its prompts in one batch;
and with prompts and texts of unequal length, against `model.generate` again. Last, what a steered decode step costs
beside an unsteered one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import peer_extraction as px
import peer_sweep as ps
import torch
from models import smollm2_shaped
from options import RESULTS, parser_of, there

from steerkit import registry
from steerkit.bench.costs import padded_forward
from steerkit.bench.hook import hook_costs
from steerkit.bench.measure import Question, Result, Work, compare, machine, quickest, settle, write
from steerkit.bench.sizes import FULL, SMALLEST, Sizes
from steerkit.bench.sweep import Sweep, ending, make_sweep
from steerkit.bench.sweep_costs import best_sizes, unequal_costs
from steerkit.bench.table import text_table
from steerkit.bench.traces import LABELS, random_traces
from steerkit.data.trace import Item
from steerkit.extraction.extract import extract
from steerkit.generation.sampling import GREEDY, Sampling
from steerkit.interfaces import Extractor
from steerkit.models.language_model import LanguageModel
from steerkit.models.threads import fastest_thread_count

ALONE = 4  # prompts that a peer does in a round that takes one at a time
CONDITIONS = 6  # those that a peer does in a round that takes one at a time
SIZES = {"full": FULL, "quick": replace(FULL, traces=16, conditions=12, new_tokens=16), "smallest": SMALLEST}
READS = 32  # spans × offsets that steering-vectors' API reads in a round
CLOSE: Mapping[str, Any] = {"rtol": 1e-4, "atol": 1e-3}  # float32 activations in batches of other shapes


def extraction(lm: LanguageModel, sizes: Sizes, rounds: int) -> list[Result]:
    """A whole extraction beside the floor, and beside a read a span and offset."""
    items, ours = extracting(lm, sizes)
    padded = quickest(lambda size: padded_forward(lm, items[: max(len(items) // 8, 8)], size), (2, 4, 8))
    works: dict[str, Work] = {
        "steerkit": ours,
        "padded": lambda: tokens_of(padded_forward(lm, items, padded)()),
    }
    what = f"{lm.name}: extraction, {lm.depth} layers × 46 offsets × 6 labels"
    size = f"{len(items)} traces"
    questions = [
        Question(f"{what} / padded forward", "steerkit", "padded", 1.0, note=f"{size}, as they come, {padded} a batch"),
    ]
    if there("steering-vectors"):
        reads = px.Reads(lm, items)
        check_reads(lm, reads)
        per_read = quickest(lambda size: lambda: tokens_of(reads.run(READS, size)), (1, 4, 16))
        whole = len(reads.texts)

        def some_reads() -> float:
            reads.run(READS, per_read)
            return READS / whole

        works["reads"] = some_reads
        questions.append(
            Question(
                f"{what}, times faster than steering-vectors' read per span and offset",
                "steerkit",
                "reads",
                20,
                True,
                f"{size}; {READS} of {whole} reads timed and scaled, texts cut after their token, {per_read} a batch",
            )
        )
    return compare(works, questions, rounds, warm=False)


def saving(lm: LanguageModel, sizes: Sizes, rounds: int) -> list[Result]:
    """A whole extraction beside passes that save every block's output."""
    if not there("nnsight"):
        return []
    items, ours = extracting(lm, sizes)
    nnsight = px.by_nnsight(lm)
    few = items[:8]
    wanted = extract(lm, few, extractor(), LABELS).windows[px.FIRST, px.LAST].sums
    torch.testing.assert_close(px.sums_by_saving(nnsight, few, 4), wanted, **CLOSE)
    trial = items[: max(len(items) // 8, 8)]
    best = quickest(lambda size: lambda: tokens_of(px.sums_by_saving(nnsight, trial, size)), (1, 2, 4, 8))
    works: dict[str, Work] = {
        "steerkit": ours,
        "one pass": lambda: tokens_of(px.sums_by_saving(nnsight, items, len(items))),
        "many": lambda: tokens_of(px.sums_by_saving(nnsight, items, best)),
    }
    what = f"{lm.name}: extraction, {lm.depth} layers × 46 offsets × 6 labels, times faster than nnsight"
    size = f"{len(items)} traces; decoder alone, no mask"
    questions = [
        Question(
            f"{what} saving every layer in a single pass",
            "steerkit",
            "one pass",
            1.3,
            True,
            f"{size}, all in one batch, padded on the right",
        ),
        Question(
            f"{what} saving every layer in a pass per batch",
            "steerkit",
            "many",
            1.3,
            True,
            f"{size}, sorted by length, {best} a batch",
        ),
    ]
    return compare(works, questions, rounds, warm=False)


def extracting(lm: LanguageModel, sizes: Sizes) -> tuple[list[Item], Callable[[], None]]:
    """The traces, and steerkit's extraction of all of them."""
    items = random_traces(lm.config.vocab_size, sizes.traces, sizes.trace_tokens)
    return items, lambda: tokens_of(extract(lm, items, extractor(), LABELS))


def extractor() -> Extractor:
    """All offsets that are asked for."""
    found: Extractor = registry.get("extractors", "offset-window")(windows=[(px.FIRST, px.LAST)])
    return found


def tokens_of(_: object) -> None:
    """The whole of a work counts as one unit."""


def check_reads(lm: LanguageModel, reads: px.Reads) -> None:
    """Raises: AssertionError when steering-vectors' reads aren't the blocks' outputs."""
    chosen, found = reads.run(4, 2)
    for place, number in enumerate(chosen):
        with torch.inference_mode():
            ids = torch.tensor([reads.texts[number]])
            hidden = lm.model(ids, output_hidden_states=True, use_cache=False).hidden_states
        for layer in (0, lm.depth // 2):
            torch.testing.assert_close(torch.cat(found[layer])[place], hidden[layer + 1][0, -1], **CLOSE)


def sweep(lm: LanguageModel, sizes: Sizes, rounds: int) -> list[Result]:
    """Ratios of tokens a second."""
    steerer = registry.get("steerers", "residual-add")()
    with ending(lm, None) as endless:
        made = make_sweep(
            endless,
            steerer,
            prompts=sizes.prompts,
            conditions=sizes.conditions,
            new_tokens=sizes.new_tokens,
            sampling=GREEDY,
            prompt_tokens=sizes.prompt_tokens,
        )
        peers = {name: run for name, (library, run) in ps.PEERS.items() if there(library)}
        ps.check(made, min(sizes.new_tokens, 12), peers)
        print("  all give the same greedy tokens")
        best, theirs = best_sizes(made, sizes)
        # What goes through one prompt or condition at a time would take too long: a part of it is scaled.
        parts = {name: made.part(1, ALONE) if "prompt" in name else made.part(CONDITIONS) for name in peers}
        works: dict[str, Work] = {"steerkit": lambda: made.by_steerkit(best)}
        works["generate"] = lambda: made.by_transformers(theirs)
        works |= {name: partial(new_tokens, run, parts[name]) for name, run in peers.items()}
        shape = f"{sizes.prompts} prompts × {sizes.conditions} conditions × {sizes.new_tokens} new tokens, greedy"
        batches = f"{shape}; batches of {best} and {theirs}"
        what = f"{lm.name}: steered sweep, tokens/s / unsteered model.generate"
        questions = [Question(what, "steerkit", "generate", 0.98, True, batches)]
        for name, part in parts.items():
            note = f"{shape}; batches of {best}; {len(part.rows)} of {len(made.rows)} rows, scaled by tokens"
            goal = 8 if "prompt" in name else 1.8
            questions.append(
                Question(f"{lm.name}: steered sweep, times faster than {name}", "steerkit", name, goal, True, note)
            )
        return compare(works, questions, rounds, warm=False)


def new_tokens(run: Callable[[Sweep], ps.Texts], sweep: Sweep) -> int:
    """How many a library generates."""
    return sum(map(len, run(sweep)))


PARTS = ("extraction", "saving", "sweep", "unequal", "hook")


def run(
    rounds: int, size: str = "full", *, only: str | None = None, threads: int = 0, out: Path = RESULTS
) -> list[Result]:
    """Measure everything, or one part; each part's figures are written as they are there."""
    lm = smollm2_shaped(size)
    settle(os.cpu_count() or 1)
    settle(threads or fastest_thread_count(lm.width, max(FULL.batch_sizes)))
    print(f"{lm.name}: {machine()}", flush=True)
    steerer, sizes = registry.get("steerers", "residual-add")(), replace(SIZES[size], rounds=rounds)
    parts: dict[str, Callable[[], list[Result]]] = {
        "extraction": lambda: extraction(lm, sizes, rounds),
        "saving": lambda: saving(lm, sizes, rounds),
        "sweep": lambda: sweep(lm, sizes, rounds),
        "unequal": lambda: unequal_costs(lm, steerer, Sampling(), sizes),
        "hook": lambda: hook_costs(lm, steerer, sizes),
    }
    results: list[Result] = []
    for name in [only] if only else PARTS:
        found = parts[name]()
        write(found, out, keep=True)
        results += found
    return results


def main() -> None:
    parser = parser_of(__doc__, rounds=5)
    parser.add_argument("--only", choices=PARTS)
    args = parser.parse_args()
    print(text_table(run(args.rounds, args.size, only=args.only, threads=args.threads, out=args.out)))


if __name__ == "__main__":
    main()
