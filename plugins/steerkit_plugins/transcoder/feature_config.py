"""Settings of the experiment `features`, which its steps read."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from steerkit.artifacts import Kind, PluginSpec
from steerkit.context import Run
from steerkit_plugins.transcoder.arms import OneAdapterConfig
from steerkit_plugins.transcoder.feature_shares import Weighting

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
    judge: Annotated[PluginSpec, Kind("judges")] | None = None
    """Judge that says what features are about and is tested on its descriptions: llm-features; null for none."""
    judged_per_block: int = Field(default=250, ge=1)
    """Features of each block and training that it is asked about, drawn from those that are alive."""
    sample_weighting: Weighting = "alive_weighted"
    """How blocks count in the share of a class: by their features that are alive, so that it is the share of all of
    these, or each the same, as in the authors' code."""
    examples: int = Field(default=10, ge=1)
    """Strongest contexts that the judge is shown of each, in random order."""
    shown: int = Field(default=20, ge=0)
    """Tokens on each side that it is shown, as far as they are kept."""
    tested: int = Field(default=5, ge=1)
    """Passages with the feature, and as many without, in each test of a description."""
    passage_before: int = Field(default=30, ge=0)
    """Tokens of a passage before the one that it is taken for."""
    passage_after: int = Field(default=10, ge=0)
    """Tokens behind it."""
    batch_tokens: int = Field(default=8192, ge=1)
    """Padded tokens in a batch that is read."""


def config_of(run: Run) -> FeaturesConfig:
    """The experiment's settings; those of a recipe without it are the defaults."""
    found = run.experiments.get(FEATURES)
    config: FeaturesConfig = found.config if found else FeaturesConfig()
    return config
