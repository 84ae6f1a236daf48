"""The loss of every model on the held-out rows, row by row: what was trained, and what it is measured against."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steerkit import registry
from steerkit.artifacts import PluginSpec
from steerkit.context import Run
from steerkit.data.trace import Prompt
from steerkit.models.models import Models
from steerkit.parts import Step
from steerkit.settings import Chatting
from steerkit.steps.training_rows import dealt
from steerkit.training.held_out import mean_loss
from steerkit.training.masks import Encoded, encode_rows
from steerkit.training.settings import Training

RECOVERY = "recovery"
"""The experiment whose models these are."""


@dataclass(frozen=True)
class LossPiece:
    """A model, and the rows that it reads."""

    model: str
    rows: tuple[Encoded, ...]
    objective: PluginSpec

    def __len__(self) -> int:
        return len(self.rows)


class HeldOutLosses(Step):
    """``steps/held-out-losses.json``: model → [learned tokens, loss per learned token] of each held-out row."""

    uses = (Training, Chatting)

    def needs(self, run: Run) -> Sequence[str]:
        return ("rows", "training")

    def models(self, run: Run) -> Sequence[str]:
        return tuple(dict.fromkeys(run.models.origin(name) for name in self._names(run)))

    def _names(self, run: Run) -> Sequence[str]:
        names: Sequence[str] = run.experiment(RECOVERY).compared(run)  # type: ignore[attr-defined]
        return names

    def depends(self, run: Run, *needs: Any) -> Any:
        return list(self._names(run))

    def pieces(self, run: Run, prompts: list[Prompt], trained: Any) -> list[LossPiece]:
        s = run.use(Training)
        rows = tuple(encode_rows(dealt(prompts).held_out, run.chats, **s.encoding))
        return [LossPiece(name, rows, s.objective) for name in self._names(run)]

    def work(self, models: Models, piece: LossPiece) -> list[tuple[int, float]]:
        lm, objective = models[piece.model], registry.build("objectives", piece.objective)
        found = []
        for done, row in enumerate(piece.rows, 1):
            found.append((row.learned, float(mean_loss(lm, [row], objective, 1) or 0.0)))
            models.progress(done)
        return found

    def join(self, run: Run, results: Iterable[Any], *needs: Any) -> Mapping[str, list[list[float]]]:
        return {name: [list(row) for row in own] for name, own in zip(self._names(run), results, strict=True)}
