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
    label: str = "backtracking"
    """Label of the sentences that are to be told beforehand."""
    halves_seed: int = Field(default=0, ge=0)
    """Deals the traces into a half on which features are chosen, and one on which they are tested."""
    top: int = Field(default=10, ge=1)
    """Features in the tables, those that tell best on the choosing half."""
    lens_tokens: int = Field(default=10, ge=1)
    """Tokens kept of each feature's logit lens, at the top and at the bottom."""
    lens_norm: bool = True
    """Whether decoder columns go through the model's final norm before the unembedding."""
    page_features: int = Field(default=2000, ge=1)
    """Features on the page, at most: those that add most."""
    page_contexts: int = Field(default=10, ge=1)
    """Strongest contexts shown of each."""
    bins: int = Field(default=4, ge=1)
    """Parts of equal size by a feature's number from which the page shows drawn contexts, too."""
    per_bin: int = Field(default=2, ge=0)
    """Contexts shown of each part."""
    batch_tokens: int = Field(default=8192, ge=1)
    """Padded tokens in a batch that is read."""


def config_of(run: Run) -> FeaturesConfig:
    """The experiment's settings; those of a recipe without it are the defaults."""
    found = run.experiments.get(FEATURES)
    config: FeaturesConfig = found.config if found else FeaturesConfig()  # type: ignore[assignment]
    return config
