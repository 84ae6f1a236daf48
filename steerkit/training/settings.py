"""Settings of a run that trains models: rows, what is trained, and how often."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from steerkit.artifacts import Kind, PluginSpec
from steerkit.interfaces import Config
from steerkit.training.validation import Validation

TRAIN, HELD_OUT = "train", "held_out"
"""Splits that are asked of the sources of rows."""


def _seeds(seeds: tuple[int, ...]) -> tuple[int, ...]:
    """Raises: ValueError when there is none, one twice, or one below 0."""
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise ValueError("must be different whole numbers from 0 on, one at least")
    return seeds


class Training(Config):
    """What models are trained on, and how."""

    train_on: Annotated[PluginSpec, Kind("prompts")]
    """Rows that are learned: chats whose last message, the assistant's, is the response."""
    train_rows: int = Field(default=256, ge=1)
    """Number of rows, the same ones in every arm and for every training seed."""
    held_out: Annotated[PluginSpec | None, Kind("prompts")] = None
    """Rows whose loss is measured before and after a training, and which are never learned; none when left out."""
    held_out_rows: int = Field(default=64, ge=1)
    """Number of held-out rows."""
    max_row_tokens: int | None = Field(default=None, ge=2)
    """Rows with more tokens, prompt included, lose their end; None keeps them whole."""
    special_in_responses: tuple[str, ...] = ()
    """Special tokens that responses may hold and that are learned as such (`</think>`). Others are an error: a model
    would read them as a turn's end, or another's beginning."""
    adapter: Annotated[PluginSpec, Kind("adapters")] = PluginSpec(name="lora")
    """What of a model is trained."""
    objective: Annotated[PluginSpec, Kind("objectives")] = PluginSpec(name="response")
    """What it is trained for."""
    training_seeds: Annotated[tuple[int, ...], AfterValidator(_seeds)] = (0, 1, 2)
    """Seeds of the trainings: of the adapter's first weights and the order of the rows. Every arm is trained once with
    each."""
    training_arguments: dict[str, Any] = Field(default_factory=dict)
    """transformers' TrainingArguments, any of them: `{learning_rate: 1e-5, num_train_epochs: 1}`."""
    validation: Validation | None = None
    """Ends trainings by what models do, as a loss may flatter: `{label: LABEL, goal: MODEL, every: 50, prompts: 32,
    patience: 3}`. All steps are done when left out."""

    @property
    def encoding(self) -> dict[str, Any]:
        """How rows become ids, as `encode_rows` and `train` take it."""
        return {"max_tokens": self.max_row_tokens, "allowed": self.special_in_responses}
