"""What a recipe will do, before it does it: conditions, tokens, forward passes, memory, time."""

from __future__ import annotations

import math
from collections import defaultdict

from steerkit.conditions import Experiment, Planner, distinct
from steerkit.data.statistics import groups_of
from steerkit.generation.generation_config import sampling_for
from steerkit.judging.metrics import same_numbers
from steerkit.models.adapters import adapter_config
from steerkit.models.language_model import check_layer
from steerkit.models.loading import ModelShape, load_generation_config, load_shape
from steerkit.planning.duration import Load
from steerkit.planning.hardware import GIB, Device
from steerkit.planning.plan_time import gpu_lines, machine_lines
from steerkit.settings import Recipe

CHARACTERS = 4  # of a token, about, in English
PROMPT = 100  # tokens of a prompt, about
AUTO = 64  # rows at a time, where the run will measure how many are best


def plan_text(recipe: Recipe, gpu: Device | None = None) -> str:
    """The plan in words.

    Args:
        gpu: whose time and memory are given. Only the model's configuration is read then; when left out, this
            machine's speed is measured for a moment, and a small local model's own.

    Raises:
        SteerkitError: no such model, an adapter of a kind that can't be used, or a layer out of range.
    """
    shape = load_shape(recipe.reasoning or recipe.base, trust_remote_code=recipe.trust_remote_code)
    if recipe.adapter:
        adapter_config(recipe.adapter)
    check_layer(recipe.layer, shape.name, shape.depth)
    for layer in (recipe.layers.layers or ()) if recipe.layers else ():
        check_layer(layer, shape.name, shape.depth, "layers.layers")
    planner = Planner(recipe, shape.depth, defaultdict(lambda: 1.0))
    # Whether a sweep runs at the chosen strength only is known; which strength that is, is not.
    experiments = [*planner.choose(), *planner.test(recipe.nonzero[0])]
    lines = [
        f"models      {recipe.base} and {recipe.reasoning or recipe.adapter}: {shape.depth} blocks × {shape.width}, "
        f"{shape.parameters / 1e6:,.1f} M parameters each",
        "prompts     " + ", ".join(f"{n} to {split}" for split, n in recipe.prompts.counts().items()),
        f"sampling    {_sampling(recipe)}",
        f"vectors     {len(planner.vectors())}, at every block",
        "",
        f"{'experiment':<12}{'split':<8}{'conditions':>11}{'texts':>9}",
    ]
    lines += [
        f"{e.name:<12}{e.split:<8}{len(e.conditions):>11}{len(e.conditions) * _texts(recipe, e.split):>9}"
        for e in experiments
    ]
    load = _load(recipe, experiments)
    lines += ["", *_costs(recipe, shape, experiments, load)]
    lines += gpu_lines(shape, load, gpu) if gpu else machine_lines(shape, load, recipe.device)
    return "\n".join(lines)


def _sampling(recipe: Recipe) -> str:
    name = recipe.reasoning or recipe.base
    sampling = sampling_for(recipe, name, lambda: load_generation_config(name))
    return f"{sampling}" + (f", as the generation_config of {name} says" if recipe.sampling == "model" else "")


def _texts(recipe: Recipe, split: str) -> int:
    return recipe.prompts.counts()[split] * recipe.samples


def _load(recipe: Recipe, experiments: list[Experiment]) -> Load:
    """What the run asks of its models, every text being as long as it may."""
    steered = sum(_texts(recipe, split) for split, _ in distinct(experiments))
    made = 0 if recipe.traces else recipe.prompts.extract
    return Load(
        texts=steered + made,
        new_tokens=recipe.max_new_tokens,
        prompt=PROMPT,
        rows=AUTO if recipe.per_device_batch_size == "auto" else recipe.per_device_batch_size,
        read=2 * recipe.prompts.extract * (PROMPT + recipe.max_new_tokens),
        bytes_each=2 if recipe.bf16 else 4,
        models=1 if recipe.adapter or recipe.base == recipe.reasoning else 2,
    )


def _costs(recipe: Recipe, shape: ModelShape, experiments: list[Experiment], load: Load) -> list[str]:
    once = distinct(experiments)
    traces = 0 if recipe.traces else recipe.prompts.extract
    steered, size = load.texts - traces, load.rows
    by_stage: dict[tuple[str, str], int] = defaultdict(int)
    for split, condition in once:
        by_stage[split, condition.target] += _texts(recipe, split)
    batches = sum(math.ceil(n / size) for n in by_stage.values()) + math.ceil(traces / size)
    cache = size * recipe.max_new_tokens * shape.depth * 2 * shape.kv_width * load.bytes_each
    labels = len(recipe.span_judge.build("judges").labels())
    offsets = sum(max(b - a + 1, 1) for a, b in recipe.extractor.build("extractors").windows())
    sums = 2 * len(groups_of([""] * labels)) * shape.depth * offsets * shape.width * 8
    weights = load.models * shape.parameters * load.bytes_each
    return [
        f"each condition is generated once: {len(once)} conditions, {steered:,} steered texts and {traces:,} traces",
        f"new tokens      at most {(steered + traces) * recipe.max_new_tokens:,} ({recipe.max_new_tokens} a text)",
        f"forward passes  at most {batches * recipe.max_new_tokens:,} of {size} rows ({batches} batches), and "
        f"{2 * max(traces, 1):,} traces read by two models",
        f"memory          {weights / GIB:.2f} GiB of weights, about {cache / GIB:.2f} "
        f"GiB of KV cache a batch, {sums / GIB:.2f} GiB of statistics",
        *_judging(recipe, 0 if recipe.spans else recipe.prompts.extract, steered),
    ]


def _judging(recipe: Recipe, traces: int, steered: int) -> list[str]:
    """A line for each judge whose work is paid for: at most so much, every text being as long as it may."""
    span_judge, score_judge = (spec.build("judges") for spec in (recipe.span_judge, recipe.score_judge))
    asked = [(span_judge, traces + steered)]
    if not same_numbers(recipe, span_judge, score_judge):
        asked.append((score_judge, steered))
    lines = []
    for judge, texts in asked:
        size = recipe.max_new_tokens * CHARACTERS
        estimate = judge.estimate(f"{n} ".ljust(size, "x") for n in range(texts))
        if estimate:
            shown = ", ".join(f"{value:,.2f} {unit}".replace(".00 ", " ") for unit, value in estimate.items())
            lines.append(f"judge           {judge.name}: at most about {shown}")
    return lines
