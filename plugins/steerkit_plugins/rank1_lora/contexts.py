"""Where units are strong, and where neurons are. The units' numbers are on disk, the neurons are read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steerkit.context import Run
from steerkit.data.trace import Item, Span, Trace
from steerkit.models.models import Models
from steerkit.models.units import units_in
from steerkit.parts import Step
from steerkit.training.settings import Training
from steerkit.units.aurocs import unit_aurocs
from steerkit.units.detection import halves
from steerkit.units.marks import Marks, marks_of
from steerkit.units.reading import read_units
from steerkit.units.store import UnitStore
from steerkit_plugins.rank1_lora.arms import adapted
from steerkit_plugins.rank1_lora.feature_contexts import FeatureContexts
from steerkit_plugins.rank1_lora.interpret_config import InterpretConfig, config_of, first_of, scalars_of, top_of
from steerkit_plugins.rank1_lora.neurons import neuron_groups
from steerkit_plugins.rank1_lora.scalar_capture import Captured
from steerkit_plugins.rank1_lora.told import Cut
from steerkit_plugins.trained.halved import ENDS
from steerkit_plugins.trained.parts import parts_of

if TYPE_CHECKING:
    from torch import Tensor

Contexts = Mapping[str, FeatureContexts]
"""By model."""


class KeptContexts(Step):
    """A step whose artifact is contexts by model, in ``units/STEP.MODEL.json``."""

    uses = (Training,)

    def names(self, run: Run) -> list[str]:
        """The models, or other keys."""
        return adapted(run, scalars_of(run))

    def depends(self, run: Run, *needs: Any) -> Any:
        c = scalars_of(run)
        kept = [c.contexts, c.contexts_per_trace, c.context_width, c.context_least, c.context_tokens]
        return [self.names(run), *kept]

    def save(self, run: Run, value: Contexts) -> Sequence[str]:
        for model, own in value.items():
            own.save(run.folder / self._path(model))
        return [self._path(model) for model in value]

    def load(self, run: Run) -> Contexts:
        return {model: FeatureContexts.load(run.folder / self._path(model)) for model in self.names(run)}

    def _path(self, model: str) -> str:
        return f"units/{self.name}.{model}.json"


class UnitContexts(KeptContexts):
    """``units/unit-contexts.MODEL.json``: the strongest contexts of each unit of an adapter, and its activity."""

    def needs(self, run: Run) -> Sequence[str]:
        return ("traces", "spans", "unit-scalars")

    def depends(self, run: Run, *needs: Any) -> Any:
        c = scalars_of(run)
        return [*super().depends(run), c.scale, c.label, c.halves_seed]

    def make(self, run: Run, traces: list[Trace], spans: tuple[list[Span], Any], scalars: Captured) -> Contexts:
        c, found = scalars_of(run), dict[str, FeatureContexts]()
        first = {trace.id: first_of(trace, c) for trace in traces}
        items = run.models.items(c.base, traces, spans[0])
        done, total = 0, sum(len(scalars[name].traces) for name in self.names(run))
        for name in self.names(run):
            store = scalars[name]
            own = FeatureContexts.empty([unit.name for unit in store.units], scalars.contexts(name))
            for trace in store.traces:
                own.count(store.of(trace, c.scale)[first[trace] :])
                done += 1
                run.progress(done, total)
            found[name] = replace(own, auroc=end_aurocs(items, store, c))
        return found


@dataclass(frozen=True)
class NeuronPiece:
    """Traces that a model reads."""

    model: str
    items: tuple[Item, ...]
    config: InterpretConfig
    scalars: Any

    def __len__(self) -> int:
        return len(self.items)


class NeuronContexts(KeptContexts):
    """``units/neuron-contexts.MODEL.json``: the same of MLP neurons of the adapted models."""

    def needs(self, run: Run) -> Sequence[str]:
        return ("traces", "training")

    def models(self, run: Run) -> Sequence[str]:
        return tuple(dict.fromkeys(run.models.origin(name) for name in self.names(run)))

    def depends(self, run: Run, *needs: Any) -> Any:
        c = config_of(run)
        return [*super().depends(run), c.neurons, c.which_neurons, [run.models.mapped(n) for n in self.models(run)]]

    def pieces(self, run: Run, traces: list[Trace], trained: Any) -> list[NeuronPiece]:
        return [
            NeuronPiece(name, part, config_of(run), scalars_of(run))
            for name in self.names(run)
            for part in parts_of(run.models.items(name, traces, ()))
        ]

    def work(self, models: Models, piece: NeuronPiece) -> FeatureContexts:
        lm, c = models[piece.model], piece.scalars
        groups = neuron_groups(lm, piece.config.neurons, piece.config.which_neurons)
        found = FeatureContexts.empty([unit.name for unit in units_in(groups)], top_of(c))

        def take(item: Item, numbers: Tensor) -> None:
            found.add(item.trace.id, numbers.numpy(), first_of(item.trace, c))

        def progress(done: int, total: int) -> None:
            models.progress(len(piece) * done // total)

        read_units(lm, piece.items, groups, take, batch_tokens=c.batch_tokens, on_batch=progress)
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


def end_aurocs(items: Sequence[Item], store: UnitStore, scalars: Any) -> np.ndarray | None:
    """[U] how well each unit tells, at the ends of sentences of the testing half, that one with the label follows.

    None where there are no such sentences, or no others.
    """
    _, testing = halves([item.trace.id for item in items], scalars.halves_seed)
    marks = {trace: own for trace, own in marks_of(items, scalars.label, ENDS).items() if trace in testing}
    places = {trace: np.flatnonzero(own.candidates) for trace, own in marks.items()}
    ends = {trace: Marks(np.ones(len(at), bool), marks[trace].hits[at]) for trace, at in places.items()}
    hits, total = (sum(int(getattr(own, part).sum()) for own in ends.values()) for part in ("hits", "candidates"))
    if not 0 < hits < total:
        return None
    return unit_aurocs(Cut(store, scalars.scale, places), ends, sorted(ends)).value
