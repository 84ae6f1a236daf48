"""transformers in this process, through steerkit's own decode loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from steerkit.generation.capacity import best_batch_size
from steerkit.generation.engine import Engine
from steerkit.generation.stream import Generated, GenerationRow, generate

if TYPE_CHECKING:
    from steerkit.generation.sampling import Sampling
    from steerkit.models.models import Models


class HFEngine(Engine):
    """The run's own models, wherever accelerate put them."""

    def start(self, models: Models, options: Mapping[str, Any]) -> None:
        self.models = models

    def batch_size(self, model: str, prompt_ids: Sequence[int], max_new_tokens: int, rows: int) -> int:
        return best_batch_size(self.models[model], prompt_ids, max_new_tokens, rows)

    def generate(
        self,
        model: str,
        rows: Sequence[GenerationRow],
        *,
        max_new_tokens: int,
        sampling: Sampling,
        batch_size: int,
        progress: Callable[[int], None],
    ) -> list[Generated]:
        return generate(
            self.models[model],
            rows,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            progress=progress,
            **sampling.model_dump(),
        )
