"""Results with effects of any size: the paper's experiments on scores that are made up, by the real statistics."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from steerkit import load_recipe
from steerkit.artifacts import Condition
from steerkit.context import Run
from steerkit.data.generated import Generation, Score
from steerkit.data.trace import Prompt
from steerkit.findings import Claim, Findings
from steerkit.judging.metrics import OTHERS, RunMetric
from steerkit.judging.scored import Scored
from steerkit.recipe.load import planned_run
from steerkit.steps.generations import added_norm
from steerkit.steps.results import Results
from steerkit.steps.scores import metrics_of_run
from steerkit.steps.vectors import Vectors
from steerkit.vectors.info import VectorInfo
from steerkit.vectors.steering_vector import SteeringVector

N, LAYER = 12, 2
STRENGTH = 10.0
"""The chosen one."""
SPREAD = 0.008
SETTINGS = (
    f"layer={LAYER}",
    "confidence=0.9",
    "strengths=[10, 20]",
    "baselines={steerers: [overall-mean, gaussian-noise], labels: [deduction]}",
    "offsets.starts=[-20, -13, 0]",
    "layers.layers=[0, 2, 3]",
    "prompts.test=12",
)
Value = Callable[[Condition, str], float | None]


def planned(*settings: str) -> Run:
    """A run that is only asked: base rates, vectors and texts are made up below."""
    return planned_run(load_recipe("backtracking", [*SETTINGS, *settings]))[0]


def vectors_of(run: Run) -> Vectors:
    """Directions [1, 1, 0] of the base and [1, 0, 0] of the reasoning model, at every block."""
    made = {}
    for source in ("base", "reasoning"):
        key = run.vector(source)
        info = VectorInfo(method="dom", label=key.label, window=key.window, source=source, depth=4)
        direction = torch.tensor([1.0, float(source == "base"), 0.0])
        made[key] = SteeringVector(dict.fromkeys(range(4), direction), info)
    return made


def is_main(condition: Condition) -> bool:
    """The base-derived vector of the fitted window on the reasoning model at the steered block, at any strength."""
    labels = condition.labels
    wanted = {"method": "dom", "source": "base", "target": "reasoning", "layer": LAYER, "window_start": -13}
    return all(labels[name] == value for name, value in wanted.items())


def effect(size: float) -> Value:
    """The base-derived vector adds `size` × strength / 10 to every share but text damage, on the reasoning model."""

    def value(condition: Condition, metric: str) -> float:
        labels = condition.labels
        steered = labels["method"] == "dom" and condition.model == "reasoning" and labels["layer"] == LAYER
        raised = size * float(labels["strength"]) / 10 if steered and metric != OTHERS else 0.0
        return raised + (0.02 if condition.model == "reasoning" else 0.001)

    return value


@dataclasses.dataclass
class MadeUp:
    """An experiment on made-up scores."""

    run: Run
    results: Results
    given: list[Any]

    @property
    def findings(self) -> Findings:
        """What the experiment says of them."""
        return self.run.experiment(self.run.title).findings(self.run, self.results, *self.given)

    @property
    def claims(self) -> dict[str, Claim]:
        return {claim.text: claim for claim in self.findings.claims if claim.kind == "claim"}

    @property
    def beside(self) -> dict[str, Claim]:
        return {claim.text: claim for claim in self.findings.claims if claim.kind == "beside"}

    def __getitem__(self, start: str) -> Claim:
        """The only line that begins with these words."""
        (found,) = (claim for claim in self.findings.claims if claim.text.startswith(start))
        return found


def made_up(
    name: str,
    value: Value,
    *settings: str,
    run: Run | None = None,
    n: int = N,
    metrics: Sequence[RunMetric] = (),
    spread: float = SPREAD,
    collapsed: Callable[[Condition, int], bool] = lambda condition, prompt: False,
    text: str = "",
    perplexity: bool = False,
) -> MadeUp:
    """An experiment's results.

    Args:
        value: condition and metric → the mean over prompts, met exactly; None where every text is empty.
        metrics: in place of those of the recipe's judges.
        spread: prompts lie at most so far from their mean, and nowhere below 0 where it is not.
        collapsed: condition and number of a prompt → whether its text is.
        text: of every generation; a token a character.
    """
    run = run or planned(*settings)
    experiment = run.experiment(name)
    own = run.of(experiment, name)
    prompts = [Prompt(id=f"p{i:03}", prompt=f"Question {i}?", split="test") for i in range(n)]
    vectors, choice = vectors_of(run), Findings(title="", value={"strength": STRENGTH})
    have = {"vectors": vectors, "choose": choice, "prompts": prompts}
    given = [have[need] for need in experiment.needs(own)]
    conditions = list(experiment.conditions(own, *given))
    metrics = metrics or metrics_of_run(run)
    scores, generations = [], []
    for condition in conditions:
        columns = _columns(condition, metrics, value, n, spread)
        for i, prompt in enumerate(prompts):
            values = {metric: float(column[i]) for metric, column in columns.items()}
            scores.append(_score(condition, prompt, values, collapsed(condition, i), perplexity))
            generations.append(_generation(condition, prompt, text))
    results = Results(
        name=experiment.rows or name,
        split="test",
        conditions=conditions,
        pairs=experiment.pairs(own, conditions),
        scored=Scored(scores, metrics),
        generations=generations,
        norms={condition.id: added_norm(condition, vectors) for condition in conditions},
        scale="unit",
        confidence=run.args.model_extra["confidence"],
    )
    return MadeUp(own, results, given)


def _columns(
    condition: Condition, metrics: Sequence[RunMetric], value: Value, n: int, spread: float
) -> dict[str, np.ndarray]:
    """Metric → a value a prompt, those of every condition and metric in an order of their own."""
    found = {}
    for metric in metrics:
        mean = None if metric.plain else value(condition, metric.name)
        if mean is not None:
            rng = np.random.default_rng([int(condition.id, 16), len(found)])
            found[metric.name] = mean + min(spread, abs(mean)) * rng.permutation(np.linspace(-1, 1, n))
    return found


def _score(condition: Condition, prompt: Prompt, values: dict[str, float], collapsed: bool, perplexity: bool) -> Score:
    some = bool(values)
    return Score(
        split="test",
        condition=condition.id,
        prompt_id=prompt.id,
        sample=0,
        values=values,
        collapsed=collapsed,
        words=40 * some,
        repeat=3,
        distinct=0.7,
        log_likelihood=-50 * float(np.log(3.25)) if perplexity else None,
        tokens=50 * some,
    )


def _generation(condition: Condition, prompt: Prompt, text: str) -> Generation:
    return Generation(
        split="test",
        condition=condition.id,
        labels=condition.labels,
        added_norm=0.0,
        prompt_id=prompt.id,
        sample=0,
        finished=True,
        text=text,
        ids=(7,) * len(text),
        starts=tuple(range(len(text))),
    )
