"""The models' own probabilities that the next sentence has the label, which features are held against: a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from steerkit.context import Run
from steerkit.training.settings import Training
from steerkit_plugins.trained.own_probabilities import OwnProbabilities
from steerkit_plugins.transcoder.arms import Diffing, models_of, one_arm
from steerkit_plugins.transcoder.feature_config import config_of


class FeatureProbabilities(OwnProbabilities):
    """``features/probabilities/MODEL.safetensors``: of the base, the hybrid, the target, and the adapters on the
    hybrid that the experiment `features` looks at; label and halves are the experiment's, too."""

    uses = (Training, Diffing)
    kept_in = "features/probabilities"

    def settings(self, run: Run) -> Any:
        return config_of(run)

    def plain(self, run: Run) -> Sequence[str]:
        c = config_of(run)
        return [c.base, c.hybrid, c.target]

    def read(self, run: Run) -> list[str]:
        return list(dict.fromkeys([*self.plain(run), *models_of(run, one_arm(run, config_of(run)))]))
