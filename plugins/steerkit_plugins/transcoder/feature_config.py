"""Settings of the experiment `features`, which its steps read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from steerkit.context import Run
from steerkit_plugins.transcoder.arms import OneAdapterConfig

FEATURES = "features"
"""The experiment, and the folder."""


class FeaturesConfig(OneAdapterConfig):
    how = frozenset({"batch_tokens"})

    contexts: int = Field(default=20, ge=1)
    """Strongest contexts kept of each feature."""
    contexts_per_trace: int = Field(default=4, ge=1)
    """Of those, what one trace may have."""
    sample: int = Field(default=30, ge=1)
    """Contexts kept of each feature beside, drawn evenly from all tokens at which it is active: they show it where it
    is weak, and their order gives the quantiles."""
    before: int = Field(default=50, ge=0)
    """Tokens kept before a context's own."""
    after: int = Field(default=20, ge=0)
    """Tokens kept behind it."""
    context_tokens: Literal["response", "all"] = "response"
    """Which tokens count: those of responses, or of prompts, too."""
    batch_tokens: int = Field(default=8192, ge=1)
    """Padded tokens in a batch that is read."""


def config_of(run: Run) -> FeaturesConfig:
    """The experiment's settings; those of a recipe without it are the defaults."""
    found = run.experiments.get(FEATURES)
    config: FeaturesConfig = found.config if found else FeaturesConfig()  # type: ignore[assignment]
    return config
