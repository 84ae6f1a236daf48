"""Arms: the ways of training a model that experiments ask for. A training seed makes a model of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from steerkit.artifacts import Placed, PluginSpec, VectorKey
from steerkit.errors import SteerkitError, nearest


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way of training a model on the run's training rows.

    All arms of a run share rows, their order, and the adapter's first weights, training seed by training seed.

    Attributes:
        name: what the models that come out are called: ``NAME.SEED``.
        model: name of the run's model that is trained.
        interventions: what is done to it while it learns, and at no other time.
        system: a system message that every row has in training; empty for none.
        prefix: a text that every row's first user message begins with in training.
        after: the arm whose weights it goes on from; empty for the model as it is.
        adapter: what of the model is trained; the run's `adapter` when left out.
        objective: what it is trained for; the run's `objective` when left out.
        arguments: transformers' TrainingArguments in which it differs from the run's `training_arguments`.
    """

    name: str
    model: str
    interventions: tuple[Placed, ...] = ()
    system: str = ""
    prefix: str = ""
    after: str = ""
    adapter: PluginSpec | None = None
    objective: PluginSpec | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def trained(self, seed: int) -> str:
        """Name of the model that a training seed makes."""
        return f"{self.name}.{seed}"

    @property
    def vectors(self) -> set[VectorKey]:
        """The vectors that must have been fitted for it."""
        keys = {key for placed in self.interventions for key in (placed.norm_of, placed.vector)}
        return {key for key in keys if key is not None}

    def to_json(self) -> dict[str, Any]:
        """JSON of all that its weights depend on in the recipe."""
        done = [placed.to_json() for placed in self.interventions]
        return {
            "model": self.model,
            "interventions": done,
            "system": self.system,
            "prefix": self.prefix,
            "after": self.after,
            "adapter": self.adapter.given if self.adapter else None,
            "objective": self.objective.given if self.objective else None,
            "arguments": dict(self.arguments),
        }


def arms_by_name(asked: Iterable[tuple[str, Sequence[Arm]]]) -> dict[str, Arm]:
    """The arms of all experiments by name, each after the one that it goes on from.

    Args:
        asked: experiment and its arms.

    Raises:
        SteerkitError: one name stands for two ways of training, or an arm goes on from none that there is.
    """
    found: dict[str, Arm] = {}
    for experiment, arms in asked:
        for arm in arms:
            if found.setdefault(arm.name, arm) != arm:
                raise SteerkitError(
                    f"experiment {experiment}: the arm {arm.name!r} is trained in another way by an experiment before "
                    "it; rename one"
                )
    for arm in found.values():
        if arm.after and arm.after not in found:
            raise SteerkitError(f"arm {arm.name!r}: goes on from {arm.after!r}; {nearest(arm.after, list(found))}")
    return {arm.name: arm for arm in sorted(found.values(), key=lambda arm: stage_of(arm, found))}


def stage_of(arm: Arm, arms: Mapping[str, Arm]) -> int:
    """How many arms must be trained one after the other before it.

    Raises:
        SteerkitError: arms go on from each other.
    """
    stage, name = 0, arm.after
    while name:
        stage, name = stage + 1, arms[name].after
        if stage > len(arms):
            raise SteerkitError(f"arm {arm.name!r}: arms go on from each other")
    return stage
