"""The paper's adapter: rank 1 on every projection of every block."""

from __future__ import annotations

from pydantic import Field

from steerkit_plugins.adapters.lora import Lora, LoraOptions


class Rank1Options(LoraOptions):
    r: int = Field(1, ge=1)
    """Rank; 1 in the paper."""
    use_rslora: bool = True
    """Rank-stabilised scaling (arXiv 2312.03732); the same as without at rank 1."""


class Rank1Lora(Lora):
    """W + γ B A with one scalar s = A x a projection and token; its settings are those of arXiv 2511.06739."""

    Config = Rank1Options
