"""Settings of the experiment `faithfulness`."""

from __future__ import annotations

from typing import Literal

from steerkit.models.parts_from import SwappedPart
from steerkit.units.divergence import Average
from steerkit_plugins.transcoder.arms import DiffConfig

PARTS: tuple[tuple[SwappedPart, ...], ...] = (
    ("mlp",),
    ("attention",),
    ("head",),
    ("embedding",),
    ("norms",),
    ("mlp", "attention"),
)


class FaithfulnessOptions(DiffConfig):
    how = frozenset({"batch_tokens"})

    tokens: Literal["all", "response"] = "all"
    """Which tokens count, as what is predicted: all but the first (the authors), or those of the response."""
    average: Average = "per_sequence"
    """Mean over texts of each one's mean per token (`per_sequence`, the authors), or over all tokens of all texts."""
    parts: tuple[tuple[SwappedPart, ...], ...] = PARTS
    """Parts of the base that are put into the target, each list of them by itself: `[[mlp], [mlp, attention]]`."""
    batch_tokens: int = 4096
    """Padded tokens that share a forward, at most."""
