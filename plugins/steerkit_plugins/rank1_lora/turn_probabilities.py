"""The models' own probabilities that the next sentence has the label, which scalars are held against: a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from steerkit.context import Run
from steerkit_plugins.rank1_lora.arms import adapted
from steerkit_plugins.rank1_lora.scalar_capture import SCALARS
from steerkit_plugins.trained.own_probabilities import OwnProbabilities


class TurnProbabilities(OwnProbabilities):
    """``probabilities/MODEL.safetensors``: of the base, the adapters, and the fully fine-tuned model if there is one.

    Models, label and halves are those of the experiment `scalars`.
    """

    def settings(self, run: Run) -> Any:
        return run.experiment(SCALARS).config

    def plain(self, run: Run) -> Sequence[str]:
        c = self.settings(run)
        return [name for name in (c.base, c.full) if name]

    def read(self, run: Run) -> list[str]:
        c = self.settings(run)
        return list(dict.fromkeys([c.base, *adapted(run, c), *([c.full] if c.full else [])]))
