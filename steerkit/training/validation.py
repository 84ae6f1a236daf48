"""When a training ends by what the model does."""

from __future__ import annotations

from pydantic import Field

from steerkit.interfaces import Config


class Validation(Config):
    """Texts on validation prompts, judged while a model is trained; it ends when they come no nearer to a goal."""

    label: str
    """Label of the span judge whose share of sentences is measured. The judge must not be one that is paid."""
    goal: str
    """Name of the run's model whose share the trained one is to reach, on the same prompts with the same noise."""
    every: int = Field(default=50, ge=1)
    """Optimizer steps between two measures."""
    prompts: int = Field(default=32, ge=1)
    """Prompts of the split `choose` that are answered, the first ones."""
    patience: int = Field(default=3, ge=1)
    """Measures in a row, none nearer to the goal than the nearest one before, after which the training ends."""
