"""Where units are strong, and where neurons are: a step each. The units' numbers are on disk, the neurons are read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.context import Run
from steerkit.data.trace import Item, Trace
from steerkit.models.models import Models
from steerkit.models.units import units_in
from steerkit.parts import Step
from steerkit.settings import Reading
from steerkit.training.settings import Training
from steerkit.units.reading import read_units
from steerkit.units.store import UnitStore
from steerkit_plugins.rank1_lora.arms import adapted
from steerkit_plugins.rank1_lora.feature_contexts import FeatureContexts
from steerkit_plugins.rank1_lora.interpret_config import InterpretConfig, config_of
from steerkit_plugins.rank1_lora.neurons import neuron_groups

if TYPE_CHECKING:
    from torch import Tensor

TRACES = 256
"""Of a piece."""

Contexts = Mapping[str, FeatureContexts]
"""By model."""


class _KeptByModel(Step):
    """A step whose artifact is contexts by model, in ``units/KIND.MODEL.json``."""

    def _names(self, run: Run) -> list[str]:
        return adapted(run, config_of(run))

    def _gathering(self, run: Run) -> list[Any]:
        """What of the settings the contexts depend on."""
        c = config_of(run)
        return [self._names(run), c.contexts, c.per_trace, c.width, c.least, c.prompts]

    def save(self, run: Run, value: Contexts) -> Sequence[str]:
        for model, own in value.items():
            own.save(run.folder / self._path(model))
        return [self._path(model) for model in value]

    def load(self, run: Run) -> Contexts:
        return {model: FeatureContexts.load(run.folder / self._path(model)) for model in self._names(run)}

    def _path(self, model: str) -> str:
        return f"units/{self.name}.{model}.json"


class UnitContexts(_KeptByModel):
    """``units/unit-contexts.MODEL.json``: the strongest contexts of each unit of an adapter, and its activity."""

    uses = (Training,)

    def needs(self, run: Run) -> Sequence[str]:
        return ("traces", "unit-scalars")

    def depends(self, run: Run, *needs: Any) -> Any:
        return [*self._gathering(run), config_of(run).scale]

    def make(self, run: Run, traces: list[Trace], scalars: Mapping[str, UnitStore]) -> Contexts:
        c, by_id, found = config_of(run), {trace.id: trace for trace in traces}, {}
        total = sum(len(scalars[name].traces) for name in self._names(run))
        done = 0
        for name in self._names(run):
            store = scalars[name]
            own = FeatureContexts.empty([unit.name for unit in store.units], c.top())
            for trace in store.traces:
                own.add(trace, store.of(trace, c.scale), _first(by_id[trace], c))
                done += 1
                run.progress(done, total)
            found[name] = own
        return found


@dataclass(frozen=True)
class NeuronPiece:
    """Traces that a model reads."""

    model: str
    items: tuple[Item, ...]
    config: InterpretConfig
    batch_tokens: int

    def __len__(self) -> int:
        return len(self.items)


class NeuronContexts(_KeptByModel):
    """``units/neuron-contexts.MODEL.json``: the same of MLP neurons of the adapted models."""

    uses = (Training,)

    def needs(self, run: Run) -> Sequence[str]:
        return ("traces", "training")

    def models(self, run: Run) -> Sequence[str]:
        return tuple(dict.fromkeys(run.models.origin(name) for name in self._names(run)))

    def depends(self, run: Run, *needs: Any) -> Any:
        c = config_of(run)
        return [*self._gathering(run), c.neurons, c.which_neurons, [run.models.mapped(n) for n in self.models(run)]]

    def pieces(self, run: Run, traces: list[Trace], trained: Any) -> list[NeuronPiece]:
        size, found = run.peek(Reading).batch_tokens, []
        for name in self._names(run):
            items = run.models.items(name, traces, ())
            items = sorted(items, key=lambda item: (len(item.ids), item.trace.id))
            parts = (tuple(items[i : i + TRACES]) for i in range(0, len(items), TRACES))
            found += [NeuronPiece(name, part, config_of(run), size) for part in parts]
        return found

    def work(self, models: Models, piece: NeuronPiece) -> FeatureContexts:
        c, lm = piece.config, models[piece.model]
        groups = neuron_groups(lm, c.neurons, c.which_neurons)
        found = FeatureContexts.empty([unit.name for unit in units_in(groups)], c.top())

        def take(item: Item, numbers: Tensor) -> None:
            found.add(item.trace.id, numbers.numpy(), _first(item.trace, c))

        def progress(done: int, total: int) -> None:
            models.progress(len(piece) * done // total)

        read_units(lm, piece.items, groups, take, batch_tokens=piece.batch_tokens, on_batch=progress)
        return found

    def keep(self, path: Path, result: FeatureContexts) -> None:
        result.save(path)

    def kept(self, path: Path) -> FeatureContexts:
        return FeatureContexts.load(path)

    def join(self, run: Run, results: Iterable[FeatureContexts], traces: list[Trace], trained: Any) -> Contexts:
        found: dict[str, FeatureContexts] = {}
        for piece, part in zip(self.pieces(run, traces, trained), results, strict=True):
            if piece.model in found:
                found[piece.model].merge(part)
            else:
                found[piece.model] = part
        return found


def _first(trace: Trace, config: InterpretConfig) -> int:
    """The first token that counts."""
    return 0 if config.prompts else len(trace.prompt_ids)
