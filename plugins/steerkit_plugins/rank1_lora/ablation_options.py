"""Settings of the ablations."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from steerkit.units.divergence import Average, Direction
from steerkit_plugins.rank1_lora.ablation_sets import Removal
from steerkit_plugins.rank1_lora.arms import PairConfig


class AblationOptions(PairConfig):
    text: Literal["traces", "held_out"] = "traces"
    """What is read: the run's traces, or the training's held-out rows."""
    texts: int = Field(default=16, ge=1)
    """Texts that are read, at most, drawn by the run's seed; 16 in the author's code."""
    max_tokens: int = Field(default=2048, ge=2)
    """Tokens of a text, prompt included, behind which it is cut; 2,048 in the author's code."""
    tokens: Literal["response", "all"] = "response"
    """Which tokens count, as what is predicted: those of the response, or all but the first (`all`, the author)."""
    average: Average = "per_sequence"
    """Mean over texts of each one's mean per token (`per_sequence`, the author), or over all tokens of all texts."""
    direction: Direction = "full || ablated"
    """Whose probabilities weigh the KL divergence stands first; "full || ablated" in the author's code."""
    group_size: int = Field(default=8, ge=1)
    """Neighbouring blocks that are zeroed together in the groups of blocks."""
    removal: Removal | Literal["none"] = "greedy"
    """How the next one to be removed is chosen: what adds least to the KL divergence given all that is gone (`greedy`,
    a round of ablations a step), by what each does alone (`by_single_effects`, one round: for large models), or none is
    removed (`none`)."""
    removal_of: Literal["projection", "block"] = "projection"
    """What is removed in a step."""
    removal_steps: int | None = Field(default=None, ge=1)
    """Steps of the removal; until nothing is left when left out."""
