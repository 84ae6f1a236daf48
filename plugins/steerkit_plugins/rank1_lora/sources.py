"""Where the features of a page come from: steps that find contexts, and the kind that each one's features are."""

from __future__ import annotations

from steerkit.context import Run
from steerkit_plugins.rank1_lora.interpret_config import InterpretConfig
from steerkit_plugins.rank1_lora.sae_training import SAE, saes_of

UNITS, NEURONS, LATENTS = "unit", "neuron", "latent"
"""Kinds of features."""
SOURCES = {"unit-contexts": UNITS, "neuron-contexts": NEURONS, "latent-contexts": LATENTS}
"""Step → the kind of its features."""


def sources(run: Run, config: InterpretConfig) -> list[str]:
    """The steps whose features the page shows."""
    wanted = {UNITS: True, NEURONS: config.neurons, LATENTS: SAE in run.experiments}
    return [step for step, kind in SOURCES.items() if wanted[kind]]


def explained_sources(run: Run, config: InterpretConfig) -> list[str]:
    """Those whose features are explained."""
    return [step for step in sources(run, config) if SOURCES[step] != LATENTS or config.explain_latents]


def parts_of_model(run: Run, step: str, model: str) -> list[str]:
    """Keys of a model's features in what a step gives: its own name, or those of its SAEs."""
    if SOURCES[step] != LATENTS:
        return [model]
    return [name for name, own, _ in saes_of(run) if own == model]
