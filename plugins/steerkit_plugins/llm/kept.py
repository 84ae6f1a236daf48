"""What plugins that ask a language model have in common: a client whose answers are kept, and notes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from steerkit.interfaces import Plugin
from steerkit_plugins.llm.answers import default_folder
from steerkit_plugins.llm.client import Client


class KeepsAnswers(Plugin):
    """No answer is paid for twice, and a run replays offline (`LLMConfig.cache`)."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._notes: dict[str, Any] = {}
        self.open(default_folder("llm"), lambda done, total: None)

    def open(self, folder: Path, progress: Callable[[int, int], None]) -> None:
        self._client = Client.at(self.config, folder, progress)

    def notes(self) -> dict[str, Any]:
        return self._notes
