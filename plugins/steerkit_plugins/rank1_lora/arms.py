"""The models that the experiments compare: the base, its adapter, the output matrix alone, full fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator

from steerkit.context import Run
from steerkit.errors import Problem, nearest
from steerkit.interfaces import Config
from steerkit.training.arms import Arm
from steerkit.training.settings import Training

ADAPTER = "adapter"
"""Name of the arm that has the run's adapter: its models are ``adapter.SEED``."""


class PairConfig(Config):
    base: str = "base"
    """Name of the run's model that is adapted."""
    full: str = "reasoning"
    """Name of the run's model that is the base, fully fine-tuned; empty for none."""


def adapter_arm(config: PairConfig) -> Arm:
    """The base with the run's adapter, trained on the run's rows."""
    return Arm(name=ADAPTER, model=config.base)


def adapted(run: Run, config: PairConfig) -> list[str]:
    """Names of the adapter's models, one a training seed."""
    return [adapter_arm(config).trained(seed) for seed in run.use(Training).training_seeds]


def unknown_models(experiment: str, run: Run, config: PairConfig) -> Iterator[Problem]:
    """Models that the run does not have."""
    for key in ("base", "full"):
        if (name := getattr(config, key)) and name not in run.models.specs:
            yield Problem(f"{experiment}.{key}", f"no model is called {name!r}", nearest(name, list(run.models.specs)))
