"""Options of the judge `llm`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from steerkit.judging.taxonomy import DEFAULT, find_taxonomy
from steerkit_plugins.llm.judging import JudgingConfig


class LLMJudgeConfig(JudgingConfig):
    taxonomy: str = DEFAULT
    """Labels with their glosses: a YAML file, or the name of a shipped set."""
    format: Literal["auto", "structured", "tagged"] = "auto"
    """How sections are asked for: JSON by the server's structured output, tagged text, or tagged where a first
    try shows that the server has no structured output."""
    min_coverage: float = Field(default=0.5, ge=0, le=1)
    """A text is left out (and counted) when less than this share of its characters is found in labelled sections."""

    def reads(self) -> dict[str, list[Path]]:
        return {"taxonomy": [find_taxonomy(self.taxonomy)]}
