"""Settings of the experiment `interpret`, which its steps read."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from steerkit.artifacts import Kind, PluginSpec
from steerkit.context import Run
from steerkit.units.contexts import TopContexts
from steerkit.units.store import Scale
from steerkit_plugins.rank1_lora.arms import PairConfig
from steerkit_plugins.rank1_lora.examples import Shows
from steerkit_plugins.rank1_lora.neurons import Which

INTERPRET = "interpret"
"""The experiment."""


class InterpretConfig(PairConfig):
    scale: Scale = "contribution"
    """Numbers of the units: s · γ‖B‖, what they add to the output, or s as it is (`raw`, as in the paper's code)."""
    contexts: int = Field(default=20, ge=1)
    """Strongest contexts kept of each unit and sign, at most."""
    per_trace: int = Field(default=4, ge=1)
    """Of these, at most so many from one trace."""
    width: int = Field(default=30, ge=0)
    """Tokens kept on each side of a context, for the page."""
    least: float = Field(default=0.01, ge=0)
    """A unit counts as active at a token, and has a context there, where its number is further than this from 0."""
    prompts: bool = False
    """Whether tokens of the prompts count, too; by default they are only seen around those of the responses."""
    neurons: int = Field(default=6, ge=0)
    """Neurons of each block that the units are held against, as in the paper; 0 for none."""
    which_neurons: Which = "first"
    """The first ones of each block, as in the paper's code, or evenly spread over its width."""
    explainer: Annotated[PluginSpec, Kind("judges")] | None = None
    """Judge that explains each unit and neuron from examples and puts it in a class: llm-explain; null for none."""
    examples: int = Field(default=10, ge=1)
    """Contexts that it is shown of each, the strongest, in random order."""
    shown: int = Field(default=8, ge=0)
    """Tokens on each side that it is shown."""
    shows: Shows = "signed"
    """Numbers that it is shown: signed ones, where those of the other sign are below 0, or sizes alone (`absolute`, as
    in the paper's code)."""
    resamples: int = Field(default=10_000, ge=100)
    """Bootstrap resamples of units, for the intervals of shares of classes."""

    def top(self) -> TopContexts:
        """To gather contexts in."""
        return TopContexts(self.contexts, self.width, self.per_trace, self.least)


def config_of(run: Run) -> InterpretConfig:
    """The experiment's settings."""
    config: InterpretConfig = run.experiment(INTERPRET).config
    return config
