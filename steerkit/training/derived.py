"""Models that are made of trained ones: an adapter with some of its units off, or scaled."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from steerkit.errors import SteerkitError

FOLDER = "derived"
"""Where they lie in a run's folder, one folder a model."""


@dataclass(frozen=True)
class Derived:
    """A model that a step of the run writes: an adapter on one of the recipe's models.

    Attributes:
        name: what conditions call it.
        origin: the recipe's model that the adapter is put on.
        step: the step that writes its folder, ``derived/NAME``.
    """

    name: str
    origin: str
    step: str

    def folder(self, run: Path) -> Path:
        """Where its adapter is in a run's folder."""
        return run / FOLDER / self.name


def derived_by_name(asked: Iterable[tuple[str, Sequence[Derived]]]) -> dict[str, Derived]:
    """The derived models of all experiments by name.

    Args:
        asked: experiment and its derived models.

    Raises:
        SteerkitError: one name stands for two models.
    """
    found: dict[str, Derived] = {}
    for experiment, models in asked:
        for model in models:
            if found.setdefault(model.name, model) != model:
                raise SteerkitError(
                    f"experiment {experiment}: the model {model.name!r} is another one in an experiment before it; "
                    "rename one"
                )
    return found
