"""transformers in this process, through steerkit's own decode loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from steerkit.generation.capacity import best_batch_size
from steerkit.generation.engine import Engine
from steerkit.generation.stream import Generated, GenerationRow, generate

if TYPE_CHECKING:
    from steerkit.generation.sampling import Sampling
    from steerkit.models.pair import ModelPair


class HFEngine(Engine):
    """The pair's own models, wherever accelerate put them."""

    def start(self, pair: ModelPair, options: Mapping[str, Any]) -> None:
        self.pair = pair

    def batch_size(self, role: str, prompt_ids: Sequence[int], max_new_tokens: int, rows: int) -> int:
        return best_batch_size(self.pair[role], prompt_ids, max_new_tokens, rows)

    def generate(
        self,
        role: str,
        rows: Sequence[GenerationRow],
        *,
        max_new_tokens: int,
        sampling: Sampling,
        batch_size: int,
        progress: Callable[[int], None],
    ) -> list[Generated]:
        return generate(
            self.pair[role],
            rows,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            progress=progress,
            **sampling.model_dump(),
        )
