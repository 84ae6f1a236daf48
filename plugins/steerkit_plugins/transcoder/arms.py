"""What the experiments compare: base, target, hybrid, and an adapter on the hybrid for each weight of the L1 term."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import AfterValidator, Field

from steerkit.artifacts import PluginSpec
from steerkit.context import Run
from steerkit.errors import Problem, SteerkitError, nearest
from steerkit.interfaces import Config
from steerkit.settings import distinct
from steerkit.training.arms import Arm
from steerkit.training.settings import Training

BASE, TARGET, HYBRID = "base", "target", "hybrid"


class Diffing(Config):
    """The adapters that experiments on transcoders share."""

    l1_weights: Annotated[tuple[Annotated[float, Field(ge=0)], ...], AfterValidator(distinct)] = ()
    """Weights of the L1 term: an adapter is trained with each and every training seed; the objective's own weight when
    left out."""


class DiffConfig(Config):
    base: str = BASE
    """Name of the run's model before fine-tuning."""
    target: str = "reasoning"
    """Name of the run's model that fine-tuning made of it."""
    hybrid: str = HYBRID
    """Name of the run's model that is the target with the base's MLPs (`parts_from: {mlp: base}`)."""


class OneAdapterConfig(DiffConfig):
    l1_weight: float | None = Field(default=None, ge=0)
    """Which of `l1_weights` is looked at; the first one when left out."""


def adapter_arms(run: Run, config: DiffConfig) -> list[Arm]:
    """The hybrid with the run's adapter, trained with each weight of the L1 term."""
    weights = run.use(Diffing).l1_weights
    if not weights:
        return [Arm(name="adapter", model=config.hybrid)]
    given = run.use(Training).objective
    return [
        Arm(name=arm_name(w), model=config.hybrid, objective=PluginSpec(name=given.name, **{**given.options, "l1": w}))
        for w in weights
    ]


def arm_name(weight: float) -> str:
    """``l1-0.001``: its models are ``l1-0.001.SEED``."""
    return f"l1-{weight:g}"


def adapters_called(run: Run, config: DiffConfig) -> dict[str, str]:
    """Arm → what reports call it."""
    called = {arm_name(weight): f"adapter (λ₁ {weight:g})" for weight in run.use(Diffing).l1_weights}
    return {arm.name: called.get(arm.name, "adapter") for arm in adapter_arms(run, config)}


def one_arm(run: Run, config: OneAdapterConfig) -> Arm:
    """The adapter that an experiment looks at. Raises: SteerkitError when none is trained with its weight."""
    arms, weights, chosen = adapter_arms(run, config), run.use(Diffing).l1_weights, config.l1_weight
    if chosen is None:
        return arms[0]
    if chosen not in weights:
        told = f"choose from {', '.join(f'{w:g}' for w in weights)}, or add it" if weights else "set l1_weights"
        raise SteerkitError(f"{run.title}.l1_weight: no adapter is trained with {chosen:g} (l1_weights): {told}")
    return arms[weights.index(chosen)]


def models_of(run: Run, arm: Arm) -> list[str]:
    """Names of an arm's models, one a training seed."""
    return [arm.trained(seed) for seed in run.use(Training).training_seeds]


def problems(experiment: str, run: Run, config: DiffConfig) -> Iterator[Problem]:
    """Models that the run does not have, a hybrid that is none, and a weight that no adapter is trained with."""
    for key in (BASE, TARGET, HYBRID):
        if (name := getattr(config, key)) not in run.models.specs:
            yield Problem(f"{experiment}.{key}", f"no model is called {name!r}", nearest(name, list(run.models.specs)))
    spec = run.models.specs.get(config.hybrid)
    if spec and spec.parts_from != {"mlp": config.base} and config.hybrid not in run.models.in_memory:
        yield Problem(
            f"models.{config.hybrid}",
            f"is not {config.target} with the MLPs of {config.base}",
            f"write {{weights: WEIGHTS OF {config.target}, parts_from: {{mlp: {config.base}}}}}",
        )
