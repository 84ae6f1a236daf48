"""A steered sweep beside unsteered `model.generate`, and beside one prompt at a time."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import median

from steerkit.bench.measure import Question, Result, Tick, Work, compare, no_tick, quickest
from steerkit.bench.sizes import Sizes
from steerkit.bench.sweep import Sweep, ending, make_sweep
from steerkit.errors import SteerkitError
from steerkit.generation.sampling import GREEDY, Sampling
from steerkit.interfaces import Steerer
from steerkit.interventions.steering import Steering
from steerkit.models.language_model import LanguageModel

TRIAL_TOKENS = 8  # new tokens in the trial that finds the best batch size


def sweep_costs(
    lm: LanguageModel, steerer: Steerer, sampling: Sampling, sizes: Sizes, tick: Tick = no_tick
) -> list[Result]:
    """A steered sweep against unsteered `model.generate`, rows of equal length, and against one row at a time."""
    with ending(lm, None) as endless:
        sweep = make_sweep(
            endless,
            steerer,
            prompts=sizes.prompts,
            conditions=sizes.conditions,
            new_tokens=sizes.new_tokens,
            sampling=sampling,
            prompt_tokens=sizes.prompt_tokens,
        )
        check_same_texts(sweep)
        ours, theirs = best_sizes(sweep, sizes)
        works: dict[str, Work] = {
            "steered": lambda: sweep.by_steerkit(ours),
            "unsteered": lambda: sweep.by_steerkit(ours, steered=False),
            "generate": lambda: sweep.by_transformers(theirs),
            "alone": lambda: one_at_a_time(sweep, sizes.alone),
        }
        rows = len(sweep.rows)
        shape = f"{sizes.prompts} prompts × {sizes.conditions} conditions × {sizes.new_tokens} tokens, {sampling}"
        batches = f"{shape}; batches of {ours} and {theirs}"
        part = f"{shape}; {sizes.alone} of {rows} rows through a steered model.generate, one by one, scaled by tokens"
        what = f"{lm.name}: steered sweep"
        questions = [
            Question(f"{what}, tokens/s / unsteered model.generate", "steered", "generate", 0.98, True, batches),
            Question(f"{what} / the same rows unsteered", "steered", "unsteered", 1.05, False, shape),
            Question(f"{what}, tokens/s / one prompt at a time", "steered", "alone", 8.0, True, part),
        ]
        return compare(works, questions, sizes.rounds, tick=tick)


def unequal_costs(
    lm: LanguageModel, steerer: Steerer, sampling: Sampling, sizes: Sizes, tick: Tick = no_tick
) -> list[Result]:
    """The same with prompts of 16 to 64 tokens and texts that end when they end; tokens/s are of tokens kept."""
    with ending(lm, sizes.new_tokens / 2) as open_ended:
        low = max(sizes.prompt_tokens // 2, 1)
        sweep = make_sweep(
            open_ended,
            steerer,
            prompts=sizes.prompts,
            conditions=sizes.conditions,
            new_tokens=sizes.new_tokens,
            sampling=sampling if sampling.temperature else Sampling(temperature=1),
            prompt_tokens=(low, 4 * low),
        )
        ours, theirs = best_sizes(sweep, sizes)
        made: dict[str, list[int]] = {"steered": [], "generate": []}

        def count(name: str, tokens: int) -> int:
            made[name].append(tokens)
            return tokens

        works: dict[str, Work] = {
            "steered": lambda: count("steered", sweep.by_steerkit(ours)),
            "generate": lambda: count("generate", sweep.by_transformers(theirs)),
        }
        question = Question(
            f"{lm.name}: steered sweep of rows of unequal length, tokens/s / unsteered model.generate",
            "steered",
            "generate",
            1.3,
            True,
        )
        (found,) = compare(works, [question], sizes.rounds, tick=tick)
        lengths = [median(own) / len(sweep.rows) for own in made.values()]
        note = (
            f"random ids end a text; mean lengths {lengths[0]:.1f} and {lengths[1]:.1f} of at most "
            f"{sizes.new_tokens}; batches of {ours} and {theirs}"
        )
        return [replace(found, note=note)]


def one_at_a_time(sweep: Sweep, rows: int) -> int:
    """The first prompt's rows, one by one through `model.generate` under a steering hook; number of tokens."""
    found = 0
    for row in sweep.rows[:rows]:
        with Steering(sweep.lm, row.edits):
            found += len(sweep.hf([row.prompt_ids])[0])
    return found


def best_sizes(sweep: Sweep, sizes: Sizes) -> tuple[int, int]:
    """The batch size at which steerkit, and that at which `model.generate` gives most tokens a second."""
    tried = sorted({min(size, len(sweep.rows)) for size in sizes.batch_sizes})

    def trial(size: int) -> Sweep:
        """Conditions that fill one batch."""
        return sweep.part(math.ceil(size / len(sweep.prompts)), new_tokens=min(TRIAL_TOKENS, sweep.new_tokens))

    ours = quickest(lambda size: lambda: trial(size).by_steerkit(size), tried)
    theirs = quickest(lambda size: lambda: trial(size).by_transformers(size), tried)
    return ours, theirs


def check_same_texts(sweep: Sweep) -> None:
    """Raises: SteerkitError when both engines' greedy, unsteered texts of the first prompts aren't the same."""
    few = replace(sweep.part(1, 4, TRIAL_TOKENS), sampling=GREEDY)
    ours, theirs = few.texts(None, steered=False), few.hf(few.prompts)
    if ours != theirs:
        raise SteerkitError(f"steerkit and model.generate give other texts for {sweep.lm.name}: nothing was compared")
