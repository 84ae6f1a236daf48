"""Settings of the experiment `interpret`, which its steps read."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from steerkit.artifacts import Kind, PluginSpec
from steerkit.context import Run
from steerkit.data.trace import Trace
from steerkit.interfaces import Config
from steerkit.units.contexts import TopContexts
from steerkit_plugins.rank1_lora.neurons import Which
from steerkit_plugins.rank1_lora.scalar_capture import SCALARS
from steerkit_plugins.trained.examples import Shows

INTERPRET = "interpret"
"""The experiment."""


class InterpretConfig(Config):
    contexts: int = Field(default=20, ge=1)
    """Strongest contexts of each unit and sign on the page, at most. What is kept of units is said under `scalars`:
    the scale of their numbers, how many contexts, how wide, and which numbers are too small to count."""
    neurons: int = Field(default=6, ge=0)
    """Neurons of each block that the units are held against, as in the paper; 0 for none."""
    which_neurons: Which = "first"
    """The first ones of each block, as in the paper's code, or evenly spread over its width."""
    explainer: Annotated[PluginSpec, Kind("judges")] | None = None
    """Judge that explains each unit and neuron from examples and puts it in a class: llm-explain; null for none."""
    explain_latents: bool = False
    """Whether it explains the latents of the run's SAEs, too, where the run has the experiment `sae`."""
    examples: int = Field(default=10, ge=1)
    """Contexts that it is shown of each, the strongest, in random order."""
    shown: int = Field(default=8, ge=0)
    """Tokens on each side that it is shown."""
    shows: Shows = "signed"
    """Numbers that it is shown: signed ones, where those of the other sign are below 0, or sizes alone (`absolute`, as
    in the paper's code)."""
    resamples: int = Field(default=10_000, ge=100)
    """Bootstrap resamples of units, for the intervals of shares of classes."""


def config_of(run: Run) -> InterpretConfig:
    """The experiment's settings."""
    config: InterpretConfig = run.experiment(INTERPRET).config
    return config


def scalars_of(run: Run) -> Any:
    """Settings of the experiment `scalars`: which models, and which of their units' numbers count."""
    return run.experiment(SCALARS).config


def top_of(scalars: Any) -> TopContexts:
    """To gather contexts in, as those of the scalars are."""
    return TopContexts(scalars.contexts, scalars.context_width, scalars.contexts_per_trace, scalars.context_least)


def first_of(trace: Trace, scalars: Any) -> int:
    """The first token of a trace that counts."""
    return len(trace.prompt_ids) if scalars.context_tokens == "response" else 0
