"""What generates texts: transformers in this process, or an inference server's core with the same pure edits."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steerkit import registry
from steerkit.artifacts import PluginSpec
from steerkit.errors import SteerkitError
from steerkit.interfaces import Plugin

if TYPE_CHECKING:
    from steerkit.generation.sampling import Sampling
    from steerkit.generation.stream import Generated, GenerationRow
    from steerkit.models.models import Models


@dataclass(frozen=True)
class Greedy:
    """Greedy texts with their log-probabilities, for `steerkit engine check`.

    Attributes:
        texts: as `Engine.generate` returns them at temperature 0.
        log_probs: ln p of each of a text's ids under the steered model; the end token's is not among them.
        steered: positions that were edited, over all rows.
    """

    texts: list[Generated]
    log_probs: list[list[float]]
    steered: int


class Engine(Plugin):
    """Generates rows, each with its own edits; extraction is the core's own. `engine: NAME` in a recipe."""

    @abstractmethod
    def start(self, models: Models, options: Mapping[str, Any]) -> None:
        """Take over the models before the first `generate`.

        Args:
            options: how the models were loaded (`bf16`, `device_map`, `trust_remote_code`).
        """

    def batch_size(self, model: str, prompt_ids: Sequence[int], max_new_tokens: int, rows: int) -> int:
        """Rows at a time, where the recipe leaves it open; all of them for an engine that fills its own batches.

        Args:
            prompt_ids: the longest prompt.
            rows: how many there are.
        """
        return rows

    @abstractmethod
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
        """One text a row, in the rows' order.

        Args:
            model: name of the model that generates.
            sampling: how tokens are drawn. Rows with one key share their noise
                (`steerkit.generation.sampling.Sampler`).
            batch_size: rows at a time; an engine that fills its batches itself may take more.
            progress: takes the number of rows that have ended, now and then.

        Raises:
            SteerkitError: rows have edits, and no position was steered.
        """

    def greedy(self, model: str, rows: Sequence[GenerationRow], *, max_new_tokens: int) -> Greedy:
        """Texts at temperature 0, all rows in one batch, with what can be compared with another engine.

        Raises:
            SteerkitError: the engine gives no log-probabilities.
        """
        raise SteerkitError(f"engine {self.name!r} gives no log-probabilities, so it can't be checked")

    def close(self) -> None:
        """Called when a run ends, also by an exception."""


def engine_of(models: Models, spec: PluginSpec) -> Engine:
    """The engine on these models, started when first asked for; `Models.close` closes it."""
    name = f"engine {spec.given}"
    if name not in models.services:
        engine: Engine = registry.build("engines", spec)
        loading = models.loading
        options = {
            "bf16": loading.bf16,
            "device_map": loading.device_map,
            "trust_remote_code": loading.trust_remote_code,
        }
        engine.start(models, options)
        models.services[name] = engine
    found: Engine = models.services[name]
    return found
