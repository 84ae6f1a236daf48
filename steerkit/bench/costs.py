"""What extraction and steering cost beside a plain forward and an unsteered `model.generate`, on any model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from steerkit.bench.measure import Question, Result, Work, compare, quickest, result, timed
from steerkit.bench.sweep import Sweep, ending, left_pad, make_sweep
from steerkit.bench.traces import LABELS, random_traces
from steerkit.errors import SteerkitError
from steerkit.extraction import Item, extract
from steerkit.interfaces import Extractor, Steerer
from steerkit.model import LanguageModel
from steerkit.steering import Steering

Tick = Callable[[], None]
TRIAL_TOKENS = 8  # new tokens in the trial that finds the best batch size


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is measured. The defaults take about a minute on a small model; `FULL` is what claims are made on.

    Attributes:
        traces, trace_tokens: that extraction reads, and their mean length.
        prompts, conditions, new_tokens, prompt_tokens: of the sweep.
        batch_sizes: tried for generation, each engine having its own best.
        trace_batches: traces in a batch, tried for the padded forward.
        alone: rows of the sweep that are generated one at a time (their cost is scaled to the whole).
        steps: decode steps in one round of the hook's measurement.
        rounds: of every measurement.
    """

    traces: int = 16
    trace_tokens: int = 200
    prompts: int = 4
    conditions: int = 12
    new_tokens: int = 24
    prompt_tokens: int = 32
    batch_sizes: tuple[int, ...] = (16, 48)
    trace_batches: tuple[int, ...] = (1, 4, 16)
    alone: int = 4
    steps: int = 24
    rounds: int = 5


FULL = Sizes(
    traces=64, trace_tokens=500, prompts=8, conditions=48, new_tokens=64, batch_sizes=(16, 32, 64, 128, 384),
    trace_batches=(1, 2, 4, 8, 16, 32), alone=8, steps=64, rounds=7,
)  # fmt: skip


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


def extraction_costs(
    lm: LanguageModel, extractor: Extractor, sizes: Sizes, tick: Tick = lambda: None
) -> list[Result]:
    """Extraction of all layers, offsets and labels against the padded forward at its best batch size."""
    items = random_traces(lm.config.vocab_size, sizes.traces, sizes.trace_tokens)
    tokens = sum(len(item.ids) for item in items)

    def extraction() -> int:
        extract(lm, items, extractor, LABELS)
        return tokens

    few = items[: max(len(items) // 4, max(sizes.trace_batches))]
    best = quickest(lambda size: padded_forward(lm, few, size), sizes.trace_batches)
    offsets = max(last - first + 1 for first, last in extractor.windows())
    question = Question(
        f"{lm.name}: extraction, {lm.depth} layers × {offsets} offsets × {len(LABELS)} labels / padded forward",
        "extraction", "forward", 1.0, note=f"{len(items)} traces, {tokens} tokens; forward of {best} traces at a time",
    )  # fmt: skip
    works = {"extraction": extraction, "forward": padded_forward(lm, items, best)}
    return compare(works, [question], sizes.rounds, tick=tick)


def sweep_costs(
    lm: LanguageModel, steerer: Steerer, temperature: float, sizes: Sizes, tick: Tick = lambda: None
) -> list[Result]:
    """A steered sweep against unsteered `model.generate`, rows of equal length, and against one row at a time."""
    with ending(lm, None) as endless:
        sweep = make_sweep(
            endless, steerer, prompts=sizes.prompts, conditions=sizes.conditions, new_tokens=sizes.new_tokens,
            temperature=temperature, prompt_tokens=sizes.prompt_tokens,
        )  # fmt: skip
        check_same_texts(sweep)
        ours, theirs = best_sizes(sweep, sizes)
        works: dict[str, Work] = {
            "steered": lambda: sweep.by_steerkit(ours),
            "unsteered": lambda: sweep.by_steerkit(ours, steered=False),
            "generate": lambda: sweep.by_transformers(theirs),
            "alone": lambda: one_at_a_time(sweep, sizes.alone),
        }
        shape = f"{sizes.prompts} prompts × {sizes.conditions} conditions × {sizes.new_tokens} new tokens, T={temperature:g}"
        questions = [
            Question(f"{lm.name}: steered sweep, tokens/s / unsteered model.generate", "steered", "generate", 0.98, True,
                     f"{shape}; batches of {ours} and {theirs}"),
            Question(f"{lm.name}: steered sweep / the same rows unsteered", "steered", "unsteered", 1.05, False, shape),
            Question(f"{lm.name}: steered sweep, tokens/s / one prompt at a time", "steered", "alone", 8.0, True,
                     f"{shape}; {sizes.alone} of {len(sweep.rows)} rows through a steered model.generate, one by one, "
                     "scaled by tokens"),
        ]  # fmt: skip
        return compare(works, questions, sizes.rounds, tick=tick)


def unequal_costs(
    lm: LanguageModel, steerer: Steerer, temperature: float, sizes: Sizes, tick: Tick = lambda: None
) -> list[Result]:
    """The same with prompts of 16 to 64 tokens and texts that end when they end; tokens/s are of tokens kept."""
    with ending(lm, sizes.new_tokens / 2) as open_ended:
        low = max(sizes.prompt_tokens // 2, 1)
        sweep = make_sweep(
            open_ended, steerer, prompts=sizes.prompts, conditions=sizes.conditions, new_tokens=sizes.new_tokens,
            temperature=temperature or 1.0, prompt_tokens=(low, 4 * low),
        )  # fmt: skip
        ours, theirs = best_sizes(sweep, sizes)
        made: dict[str, list[int]] = {"steered": [], "generate": []}

        def count(name: str, tokens: int) -> int:
            made[name].append(tokens)
            return max(tokens, 1)

        works: dict[str, Work] = {
            "steered": lambda: count("steered", sweep.by_steerkit(ours)),
            "generate": lambda: count("generate", sweep.by_transformers(theirs)),
        }
        question = Question(
            f"{lm.name}: steered sweep of rows of unequal length, tokens/s / unsteered model.generate",
            "steered", "generate", 1.3, True,
        )  # fmt: skip
        (found,) = compare(works, [question], sizes.rounds, tick=tick)
        lengths = [median(own) / len(sweep.rows) for own in made.values()]
        note = (
            f"random ids end a text; mean lengths {lengths[0]:.1f} and {lengths[1]:.1f} of at most "
            f"{sizes.new_tokens}; batches of {ours} and {theirs}"
        )
        return [replace(found, note=note)]


def hook_costs(lm: LanguageModel, steerer: Steerer, sizes: Sizes, tick: Tick = lambda: None) -> list[Result]:
    """A steered decode step against an unsteered one: step by step in turns, on two models that share weights."""
    import torch

    size = sizes.batch_sizes[-1]
    sweep = make_sweep(
        lm, steerer, prompts=1, conditions=size, new_tokens=sizes.steps, temperature=0,
        prompt_tokens=sizes.prompt_tokens,
    )  # fmt: skip
    plain, steered = lm, sharing_weights(lm)
    ratios = []
    for _ in range(sizes.rounds + 1):
        with torch.inference_mode(), Steering(steered, [row.edit for row in sweep.rows]):
            # Both decode the same tokens: those that the plain model chooses.
            ids, mask = (part.to(lm.device) for part in left_pad([row.prompt_ids for row in sweep.rows]))
            caches: dict[str, Any] = {}
            seconds: dict[str, list[float]] = {"steered": [], "plain": []}
            order = [("steered", steered), ("plain", plain)]
            for step in range(sizes.steps + 1):
                out: dict[str, Any] = {}
                for name, model in order:

                    def forward(name: str = name, model: LanguageModel = model) -> None:
                        out[name] = model.model(
                            input_ids=ids, attention_mask=mask, past_key_values=caches.get(name), use_cache=True,
                            logits_to_keep=1,
                        )  # fmt: skip

                    took = timed(forward)
                    caches[name] = out[name].past_key_values
                    if step:  # the first is the prompt
                        seconds[name].append(took)
                order.reverse()
                ids = out["plain"].logits[:, -1:].argmax(-1)
                mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        ratios.append(median(seconds["steered"]) / median(seconds["plain"]))
        tick()
    question = Question(
        f"{lm.name}: steered decode step / unsteered decode step", "", "", 1.01,
        note=f"{size} rows; medians of {sizes.steps} steps in turns; first round not counted",
    )  # fmt: skip
    return [result(question, ratios[1:])]


def sharing_weights(lm: LanguageModel) -> LanguageModel:
    """Another model over the same tensors: hooks on one are not on the other."""
    tensors = {id(t): t for t in (*lm.model.parameters(), *lm.model.buffers())}
    return replace(lm, model=copy.deepcopy(lm.model, tensors))


def one_at_a_time(sweep: Sweep, rows: int) -> int:
    """The first prompt's rows, one by one through `model.generate` under a steering hook; number of tokens."""
    found = 0
    for row in sweep.rows[:rows]:
        assert row.edit is not None
        with Steering(sweep.lm, row.edit):
            found += len(sweep.hf([row.prompt_ids])[0])
    return found


def best_sizes(sweep: Sweep, sizes: Sizes) -> tuple[int, int]:
    """The batch size at which steerkit, and that at which `model.generate` gives most tokens a second."""
    tried = sorted({min(size, len(sweep.rows)) for size in sizes.batch_sizes})
    trial = sweep.part(len(sweep.edits), new_tokens=min(TRIAL_TOKENS, sweep.new_tokens))
    ours = quickest(lambda size: lambda: trial.by_steerkit(size), tried)
    theirs = quickest(lambda size: lambda: trial.by_transformers(size), tried)
    return ours, theirs


def check_same_texts(sweep: Sweep) -> None:
    """Raises: SteerkitError when both engines' greedy, unsteered texts of the first prompts aren't the same."""
    few = replace(sweep.part(1, 4, TRIAL_TOKENS), temperature=0.0)
    ours, theirs = few.texts(None, steered=False), few.hf(few.prompts)
    if ours != theirs:
        raise SteerkitError(f"steerkit and model.generate give other texts for {sweep.lm.name}: nothing was compared")


def run_all(
    lm: LanguageModel, extractor: Extractor, steerer: Steerer, temperature: float, sizes: Sizes, tick: Tick
) -> list[Result]:
    """Everything above."""
    return [
        *extraction_costs(lm, extractor, sizes, tick),
        *sweep_costs(lm, steerer, temperature, sizes, tick),
        *unequal_costs(lm, steerer, temperature, sizes, tick),
        *hook_costs(lm, steerer, sizes, tick),
    ]


def ticks(sizes: Sizes) -> int:
    """How often `run_all` calls its tick: two, four and two works and the hook, each once more to warm up."""
    return (2 + 4 + 2 + 1) * (sizes.rounds + 1)
