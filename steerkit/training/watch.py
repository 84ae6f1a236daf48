"""Measures of a model while it is trained, which may end the training before its last step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steerkit.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What was measured after some optimizer steps.

    Attributes:
        values: numbers by name.
    """

    step: int
    values: Mapping[str, float]


class Watch(ABC):
    """Measures a model every so many optimizer steps. A loss may flatter: what a model does is measured, too.

    Attributes:
        every: optimizer steps between two measures.
    """

    every: int

    @abstractmethod
    def measure(self, lm: LanguageModel) -> Mapping[str, float]:
        """Numbers by name, of the model as it is now: in eval mode, without the training's interventions.

        Modes and the global random state are as before afterwards. The same weights must give the same numbers, so that
        a training that is gone on with ends at the same step. Of several processes the first one measures.
        """

    @abstractmethod
    def enough(self, measures: Sequence[Measure]) -> bool:
        """Whether the training ends after the last of these measures."""

    @abstractmethod
    def settings(self) -> Any:
        """JSON of all that measures and the end depend on: a checkpoint with others is another training's."""


def stalled(values: Sequence[float], goal: float, patience: int) -> bool:
    """Whether none of the last `patience` values is nearer to a goal than the nearest one before them."""
    away = [abs(value - goal) for value in values]
    return len(away) > patience and min(away[-patience:]) >= min(away[:-patience])
