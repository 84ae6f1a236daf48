"""What extraction and steering cost beside a plain forward and an unsteered `model.generate`, on any model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from steerkit.bench.hook import hook_costs
from steerkit.bench.measure import Question, Result, Tick, compare, no_tick, quickest
from steerkit.bench.sizes import Sizes
from steerkit.bench.sweep_costs import sweep_costs, unequal_costs
from steerkit.bench.traces import LABELS, random_traces
from steerkit.data.draws import OVER, WITHIN, draw, draw_name
from steerkit.data.trace import Item
from steerkit.extraction.drawn_sums import spans_of
from steerkit.extraction.extract import extract
from steerkit.generation.sampling import Sampling
from steerkit.interfaces import Extractor, Steerer
from steerkit.models.language_model import LanguageModel
from steerkit.models.limits import check_items

DRAWS, FOLDS = 20, 20  # of each kind, as a run has them


def padded_forward(lm: LanguageModel, items: Sequence[Item], batch: int) -> Callable[[], int]:
    """A decoder forward of all traces as they come, `batch` at a time, padded on the right; returns their tokens.

    No LM head, no mask (causal attention never sees padding on the right) and no cache: the least that a user
    of transformers can do.
    """
    import torch

    padded = []
    for begin in range(0, len(items), batch):
        part = [item.ids for item in items[begin : begin + batch]]
        ids = torch.zeros(len(part), max(map(len, part)), dtype=torch.long)
        for row, own in enumerate(part):
            ids[row, : len(own)] = torch.tensor(own)
        padded.append(ids.to(lm.device))

    def forward() -> int:
        with torch.inference_mode():
            for ids in padded:
                lm.decoder(input_ids=ids, use_cache=False)
        return sum(len(item.ids) for item in items)

    return forward


def extraction_costs(lm: LanguageModel, extractor: Extractor, sizes: Sizes, tick: Tick = no_tick) -> list[Result]:
    """Extraction of all layers, offsets and labels against the padded forward at its best batch size, and the same with
    pseudo-labels and folds against it."""
    items = random_traces(lm.config.vocab_size, sizes.traces, sizes.trace_tokens)
    check_items(lm, items)  # the longest texts of all that is measured
    tokens = sum(len(item.ids) for item in items)

    def extraction() -> int:
        extract(lm, items, extractor, LABELS)
        return tokens

    window = extractor.windows()[0]
    names = [draw_name(kind, number) for kind in (WITHIN, OVER) for number in range(DRAWS)]
    spans = spans_of(items, extractor, LABELS[0], window)
    draws = draw(spans, names, label=LABELS[0], window=window, folds=FOLDS)

    def drawn() -> int:
        extract(lm, items, extractor, LABELS, draws=draws)
        return tokens

    few = items[: max(len(items) // 4, max(sizes.trace_batches))]
    best = quickest(lambda size: padded_forward(lm, few, size), sizes.trace_batches)
    offsets = max(last - first + 1 for first, last in extractor.windows())
    question = Question(
        f"{lm.name}: extraction, {lm.depth} layers × {offsets} offsets × {len(LABELS)} labels / padded forward",
        "extraction",
        "forward",
        1.0,
        note=f"{len(items)} traces, {tokens} tokens; forward of {best} traces at a time",
    )
    more = Question(
        f"{lm.name}: extraction with {len(names)} pseudo-labels and {draws.folds} folds / without",
        "drawn",
        "extraction",
        1.15,
    )
    works = {"extraction": extraction, "forward": padded_forward(lm, items, best), "drawn": drawn}
    return compare(works, [question, more], sizes.rounds, tick=tick)


def run_all(
    lm: LanguageModel, extractor: Extractor, steerer: Steerer, sampling: Sampling, sizes: Sizes, tick: Tick
) -> list[Result]:
    """Everything above."""
    return [
        *extraction_costs(lm, extractor, sizes, tick),
        *sweep_costs(lm, steerer, sampling, sizes, tick),
        *unequal_costs(lm, steerer, sampling, sizes, tick),
        *hook_costs(lm, steerer, sizes, tick),
    ]


def ticks(sizes: Sizes) -> int:
    """How often `run_all` calls its tick: three, four and two works and the hook, each once more to warm up."""
    return (3 + 4 + 2 + 1) * (sizes.rounds + 1)
