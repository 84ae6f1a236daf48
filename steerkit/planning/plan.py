"""What a recipe will do, before it does it: conditions, tokens, forward passes, memory, time."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from steerkit import registry
from steerkit.artifacts import Condition
from steerkit.context import Run
from steerkit.data.drawn_statistics import rows_of
from steerkit.data.draws import COVARIANCE, kind_of
from steerkit.data.windows import WEIGHTINGS, groups_of
from steerkit.errors import SteerkitError
from steerkit.generation.generation_config import sampling_for
from steerkit.judging.metrics import same_numbers
from steerkit.models.adapters import adapter_config
from steerkit.models.language_model import check_layer
from steerkit.models.loading import ModelShape, load_generation_config
from steerkit.parts import Step
from steerkit.planning.duration import Load
from steerkit.planning.hardware import GIB, Device
from steerkit.planning.inputs import check_inputs
from steerkit.planning.plan_time import gpu_lines, machine_lines
from steerkit.planning.trainings import trained_tokens, training_lines
from steerkit.recipe.load import planned_run
from steerkit.settings import Drawing, Generating, Labelling, Reading, Recipe, Samples, Scoring, Steering
from steerkit.steps.asked import asked_of, planned_needs
from steerkit.steps.prompts import Prompts
from steerkit.steps.wanted import draws_of, fits_of

CHARACTERS = 4  # of a token, about, in English
PROMPT = 100  # tokens of a prompt, about
AUTO = 64  # rows at a time, where the run will measure how many are best

Asked = dict[str, tuple[str, Sequence[Condition]]]
"""Experiment → the split that its texts are written on, and its conditions."""


def plan_text(recipe: Recipe, gpu: Device | None = None) -> str:
    """The plan in words.

    Args:
        gpu: whose time and memory are given. Only the models' configurations are read then; when left out, this
            machine's speed is measured for a moment, and a small local model's own.

    Raises:
        SteerkitError: no such model, an adapter of a kind that can't be used, a layer out of range, or files that are
            missing or hold too few prompts.
    """
    run, steps = planned_run(recipe)
    check_inputs(run, steps)
    for spec in run.models.specs.values():
        if spec.adapter:
            adapter_config(spec.adapter)
    shape = run.models.shape(run.models.writer)
    asked = _asked(run)
    if any(condition.steered for _, conditions in asked.values() for condition in conditions):
        check_layer(run.peek(Steering).layer, shape.name, shape.depth)
    counts = Prompts(**run.settings.own("prompts")).config.counts()
    lines = [
        f"models      {', '.join(_model(run, name) for name in run.models)}",
        "prompts     " + ", ".join(f"{n} to {split}" for split, n in counts.items()),
        f"sampling    {_sampling(run)}",
        f"vectors     {len(fits_of(run)) if 'vectors' in steps else 0}, at every block",
        "",
        f"{'experiment':<16}{'split':<8}{'conditions':>11}{'texts':>9}",
    ]
    texts = {split: n * run.peek(Samples).samples for split, n in counts.items()}
    lines += [
        f"{name:<16}{split if conditions else '':<8}{len(conditions):>11}{len(conditions) * texts[split]:>9}"
        for name, (split, conditions) in asked.items()
    ]
    load = _load(run, steps, asked, texts, counts["extract"])
    lines += ["", *training_lines(run), *_costs(run, steps, shape, asked, load, texts)]
    lines += gpu_lines(shape, load, gpu) if gpu else machine_lines(shape, load, recipe.device)
    return "\n".join(lines)


def _model(run: Run, name: str) -> str:
    spec, shape = run.models.specs[name], run.models.shape(name)
    adapter = f" + {spec.adapter}" if spec.adapter else ""
    size = f"{shape.depth} blocks × {shape.width}, {shape.parameters / 1e6:,.1f} M parameters"
    return f"{name} {spec.weights}{adapter} ({size})"


def _asked(run: Run) -> Asked:
    """What each experiment has generated. What only a run finds out (the chosen strength) has a stand-in."""
    found: Asked = {}
    for name, experiment in run.experiments.items():
        needs = planned_needs(run, name, experiment)
        try:
            found[name] = experiment.split, asked_of(run, name, experiment, *needs)[0]
        except SteerkitError:
            raise
        except Exception as error:
            raise SteerkitError(
                f"experiment {name}: conditions() failed in a plan ({type(error).__name__}: {error}); a plan makes no "
                "artifacts: a step's is None there, an experiment's what its planned() gives"
            ) from error
    return found


def _sampling(run: Run) -> str:
    s, name = run.peek(Generating), run.models.specs[run.models.writer].weights
    sampling = sampling_for(s, name, lambda: load_generation_config(name))
    return f"{sampling}" + (f", as the generation_config of {name} says" if s.sampling == "model" else "")


def _distinct(asked: Asked) -> dict[tuple[str, str], Condition]:
    """(split, condition's id) → condition: what is generated, once each."""
    return {(split, c.id): c for split, conditions in asked.values() for c in conditions}


def _traces(run: Run, steps: Mapping[str, Step], extract: int) -> int:
    """Traces that will be generated."""
    return extract if "traces" in steps and steps["traces"].config.generated else 0


def _load(run: Run, steps: Mapping[str, Step], asked: Asked, texts: Mapping[str, int], extract: int) -> Load:
    """What the run asks of its models, every text being as long as it may."""
    s = run.peek(Generating)
    readers = sum(title.startswith("statistics.") for title in steps)
    again = readers if "directions" in steps and run.peek(Drawing).folds else 0  # what directions tell of the traces
    weights = {(spec.weights, *sorted(spec.parts_from.items())) for spec in run.models.specs.values()}
    return Load(
        texts=sum(texts[split] for split, _ in _distinct(asked)) + _traces(run, steps, extract),
        new_tokens=s.max_new_tokens,
        prompt=PROMPT,
        rows=AUTO if s.per_device_batch_size == "auto" else s.per_device_batch_size,
        read=(readers + again) * extract * (PROMPT + s.max_new_tokens),
        bytes_each=2 if run.args.bf16 else 4,
        models=len(weights),
        trained=trained_tokens(run),
    )


def _costs(
    run: Run,
    steps: Mapping[str, Step],
    shape: ModelShape,
    asked: Asked,
    load: Load,
    texts: Mapping[str, int],
) -> list[str]:
    once, longest = _distinct(asked), run.peek(Generating).max_new_tokens
    steered = sum(texts[split] for split, _ in once)
    traces, size = load.texts - steered, load.rows
    by_batch: dict[tuple[str, str], int] = defaultdict(int)
    for (split, _), condition in once.items():
        by_batch[split, condition.model] += texts[split]
    batches = sum(math.ceil(n / size) for n in by_batch.values()) + math.ceil(traces / size)
    cache = size * longest * shape.depth * 2 * shape.kv_width * load.bytes_each
    readers = [title for title in steps if title.startswith("statistics.")]
    sums = 0
    if readers:
        labels = len(registry.build("judges", run.peek(Labelling).span_judge).labels())
        windows = registry.build("extractors", run.peek(Reading).extractor).windows()
        offsets = sum(max(b - a + 1, 1) for a, b in windows)
        numbers = len(readers) * len(WEIGHTINGS) * len(groups_of([""] * labels)) * offsets
        for title in readers:
            names, folds = draws_of(run, steps[title].of)
            weighted = sum(kind_of(name)[0] == COVARIANCE for name in names)
            numbers += rows_of(len(names) - weighted, folds, weighted)
        sums = numbers * shape.depth * shape.width * 8
    weights = load.models * shape.parameters * load.bytes_each
    return [
        f"each condition is generated once: {len(once)} conditions, {steered:,} steered texts and {traces:,} traces",
        f"new tokens      at most {(steered + traces) * longest:,} ({longest} a text)",
        f"forward passes  at most {batches * longest:,} of {size} rows ({batches} batches), and "
        f"{load.read // (PROMPT + longest):,} traces read by {len(readers)} models",
        f"memory          {weights / GIB:.2f} GiB of weights, about {cache / GIB:.2f} "
        f"GiB of KV cache a batch, {sums / GIB:.2f} GiB of statistics, draws and folds with them",
        *_judging(run, steps, traces, steered),
    ]


def _judging(run: Run, steps: Mapping[str, Step], traces: int, steered: int) -> list[str]:
    """A line for each judge whose work is paid for: at most so much, every text being as long as it may."""
    asked = []
    if "spans" in steps:
        judge = registry.build("judges", run.peek(Labelling).span_judge)
        own = (0 if steps["spans"].config.file else traces) + (steered if judge.labels_texts else 0)
        asked.append((judge, own))
        if steered:
            other = registry.build("judges", run.peek(Scoring).score_judge)
            if not same_numbers(judge, other, run.peek(Scoring).scored):
                asked.append((other, steered))
    lines = []
    for judge, texts in asked:
        size = run.peek(Generating).max_new_tokens * CHARACTERS
        estimate = judge.estimate(f"{n} ".ljust(size, "x") for n in range(texts))
        if estimate:
            shown = ", ".join(f"{value:,.2f} {unit}".replace(".00 ", " ") for unit, value in estimate.items())
            lines.append(f"judge           {judge.name}: at most about {shown}")
    return lines
