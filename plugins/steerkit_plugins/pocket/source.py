"""The embedded models and their problems as plugins: `pocket:base` and its like, and prompts of any number."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from steerkit.data.trace import Prompt
from steerkit.errors import SteerkitError, nearest
from steerkit.interfaces import ModelSource, PromptSource

MODELS = {"base": "train", "reasoning": "train", "instructable": "train_instructable"}
"""Name → the module that trains it."""


class PocketModels(ModelSource):
    """`pocket:base`, `pocket:reasoning` and `pocket:instructable`: see MODEL_CARD.md beside this file."""

    def path(self, name: str) -> Path:
        if name not in MODELS:
            raise SteerkitError(f"pocket:{name}: no such model; {nearest(name, list(MODELS))}")
        folder = Path(__file__).parent / name
        if not (folder / "model.safetensors").is_file():
            raise SteerkitError(
                f"pocket:{name}: its weights are not in this installation ({folder}); "
                f"`python -m steerkit_plugins.pocket.{MODELS[name]}` makes them"
            )
        return folder


class PocketPrompts(PromptSource):
    """Ledger problems that no pocket model was trained on, their answers known."""

    def read(self, counts: Mapping[str, int], seed: int) -> list[Prompt]:
        from steerkit_plugins.pocket.prompts import problems

        return [Prompt(split=split, **row) for split, n in counts.items() for row in problems(n, seed, split)]

    def correct(self, prompt: Prompt, answer: str) -> float:
        """1 when the answer states the problem's count."""
        from steerkit_plugins.pocket.score import stated

        return float(stated(answer) == prompt.answer)
