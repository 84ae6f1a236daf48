"""How far along the vector trained models' activations lie: held-out responses read by each of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steerkit.artifacts import VectorKey
from steerkit.context import Run
from steerkit.data.trace import Item, Prompt, Span, Trace
from steerkit.extraction.projecting import project_windows
from steerkit.interfaces import OWN_TOKENS
from steerkit.models.models import Models
from steerkit.parts import Step
from steerkit.settings import Chatting, Steering
from steerkit.steps.training_rows import dealt
from steerkit.steps.vectors import Vectors
from steerkit.training.masks import Encoded, encode_rows
from steerkit.training.settings import Training
from steerkit_plugins.extractors.positions import Positions

if TYPE_CHECKING:
    from torch import Tensor

PROJECTION = "trait-projection"
"""The experiment whose models these are."""


@dataclass(frozen=True)
class ProjectionPiece:
    """A model, the rows that it reads, and the unit vector [H] of a block."""

    model: str
    rows: tuple[Encoded, ...]
    direction: Tensor
    layer: int

    def __len__(self) -> int:
        return len(self.rows)


class Projections(Step):
    """``steps/trait-projections.json``: model → ⟨h, v̂⟩ of each held-out row, the mean over its response tokens."""

    uses = (Training, Chatting, Steering)

    def needs(self, run: Run) -> Sequence[str]:
        return ("rows", "vectors", "training")

    def models(self, run: Run) -> Sequence[str]:
        return tuple(dict.fromkeys(run.models.origin(name) for name in self._names(run)))

    def _names(self, run: Run) -> list[str]:
        return [name for name, _, _ in run.experiment(PROJECTION).read_models(run)]  # type: ignore[attr-defined]

    def _key(self, run: Run) -> VectorKey:
        key: VectorKey = run.experiment(PROJECTION).key(run)  # type: ignore[attr-defined]
        return key

    def depends(self, run: Run, *needs: Any) -> Any:
        return [self._names(run), self._key(run).to_json()]

    def pieces(self, run: Run, prompts: list[Prompt], vectors: Vectors, trained: Any) -> list[ProjectionPiece]:
        layer = run.use(Steering).layer
        key = self._key(run)
        rows = tuple(encode_rows(dealt(prompts).held_out, run.chats, **run.use(Training).encoding))
        return [ProjectionPiece(name, rows, vectors[key].unit(layer), layer) for name in self._names(run)]

    def work(self, models: Models, piece: ProjectionPiece) -> list[float]:
        extractor, items = Positions(at="response mean"), [_item(row) for row in piece.rows]
        found = project_windows(
            models[piece.model],
            items,
            extractor,
            OWN_TOKENS,
            [piece.direction[None]],
            {item.trace.id: 0 for item in items},
            [piece.layer],
            on_batch=lambda done, total: models.progress(len(piece) * done // total),
        )
        return [float(found[item.trace.id][0, 0]) for item in items]

    def join(self, run: Run, results: Iterable[list[float]], *needs: Any) -> dict[str, list[float]]:
        return dict(zip(self._names(run), results, strict=True))


def _item(row: Encoded) -> Item:
    """A row as a trace with one span: its response, the token that ends the turn included."""
    prompt, response = tuple(row.ids[: row.prompt_length]), tuple(row.ids[row.prompt_length :])
    starts = (0,) * len(response)
    trace = Trace(id=row.id, prompt_id=row.id, prompt="", text="", prompt_ids=prompt, ids=response, starts=starts)
    span = Span(trace_id=row.id, label="", judge="", start=0, end=0, first=len(prompt), last=len(row.ids) - 1)
    return Item(trace, (span,), row.ids)
