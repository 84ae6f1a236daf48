"""Settings of the experiment `hesitation`, which its steps read."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field

from steerkit.context import Run
from steerkit.settings import distinct
from steerkit_plugins.transcoder.arms import OneAdapterConfig, models_of, one_arm

HESITATION = "hesitation"
"""The experiment."""
CONTEXTS: Final = "contexts"
LOGITS: Final = "logits"
Way = Literal["contexts", "logits"]
WITHOUT: Final = "without"
MATCHED: Final = "matched"
RANDOM: Final = "random"
ONLY: Final = "only"
BARE: Final = "only-no-bias"
BIASES: Final = "biases"
NEGATED: Final = "negated"
Kind = Literal["without", "matched", "random", "only", "only-no-bias", "biases", "negated"]
DEFAULT: tuple[Kind, ...] = (WITHOUT, MATCHED, ONLY, BARE, BIASES, NEGATED)


class HesitationConfig(OneAdapterConfig):
    how = frozenset({"batch_tokens"})

    label: str = "backtracking"
    """Label of the sentences that begin with a turning word."""
    chosen_by: Annotated[tuple[Way, ...], Field(min_length=1), AfterValidator(distinct)] = (CONTEXTS, LOGITS)
    """How features are chosen. `contexts`: at least `least` of the strongest `contexts` of a feature stand right before
    such a sentence. `logits`: what a feature adds there to the logits of the sentences' first tokens is among the
    highest, as many features as by `contexts`."""
    contexts: int = Field(default=10, ge=1)
    """Strongest contexts of a feature that are looked at."""
    least: int = Field(default=5, ge=1)
    """How many of them stand right before such a sentence, at least."""
    kinds: Annotated[tuple[Kind, ...], Field(min_length=1), AfterValidator(distinct)] = DEFAULT
    """What is written with: the adapter `without` the chosen features; without `matched` others, of like contribution;
    without `random` others; the hybrid with `only` the chosen features and all decoder biases, with the features and no
    biases (`only-no-bias`), with the `biases` alone; the target with the chosen features scaled by `negated_scale`
    (`negated`). The adapter, the hybrid and the target write in any case."""
    draws: int = Field(default=3, ge=1)
    """Sets of matched features, and of random ones, for each training seed."""
    near: int = Field(default=5, ge=1)
    """A matched feature is drawn from so many others of the same block whose contribution is nearest."""
    random_features: int | None = Field(default=None, ge=1)
    """Features of a random set; as many as are chosen when left out."""
    negated_scale: float = Field(default=-0.5, lt=0)
    """What the chosen features are multiplied by on the target; the paper's −1 gave incoherent text."""
    metric: str = ""
    """Metric that claims are about; the score judge's first one when left out."""
    batch_tokens: int = Field(default=2048, ge=1)
    """Padded tokens in a batch that is read."""


def config_of(run: Run) -> HesitationConfig:
    """The experiment's settings."""
    config: HesitationConfig = run.experiment(HESITATION).config
    return config


def models_looked_at(run: Run) -> list[str]:
    """The trained adapters that it is about, one a training seed."""
    return models_of(run, one_arm(run, config_of(run)))
