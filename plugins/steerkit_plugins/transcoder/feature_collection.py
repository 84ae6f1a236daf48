"""All features of an adapter on the run's traces, in one pass: a step."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steerkit.context import Run
from steerkit.data.trace import Item, Trace
from steerkit.models.models import Models
from steerkit.parts import Step
from steerkit.store.files import linked
from steerkit.training.settings import Training
from steerkit.units.active import Active
from steerkit.units.active_store import ActiveShard
from steerkit.units.collected import CollectedUnits
from steerkit.units.collecting import collect, layout_of
from steerkit.units.parts import save_parts
from steerkit.units.regions import REGIONS, markers_of, regions_of
from steerkit_plugins.trained.parts import parts_of
from steerkit_plugins.transcoder.arms import Diffing, models_of
from steerkit_plugins.transcoder.feature_config import FEATURES, FeaturesConfig, config_of
from steerkit_plugins.transcoder.feature_store import FeatureStore
from steerkit_plugins.transcoder.units import transcoder_groups


@dataclass(frozen=True)
class FeaturePiece:
    """A model and the traces that it reads."""

    model: str
    items: tuple[Item, ...]
    config: FeaturesConfig
    seed: int

    def __len__(self) -> int:
        return len(self.items)


Found = tuple[CollectedUnits, ActiveShard]


class CollectFeatures(Step):
    """``features/MODEL.safetensors`` and ``features/MODEL/*.safetensors``: the features of one arm's adapters.

    Its name is ``transcoder-features.ARM``: the arm's models, one a training seed, are read. Settings are those of the
    experiment `features`.
    """

    uses = (Training, Diffing)

    def needs(self, run: Run) -> Sequence[str]:
        return ("traces", "training")

    def names(self, run: Run) -> list[str]:
        """The models."""
        return models_of(run, run.arms[self.of])

    def models(self, run: Run) -> Sequence[str]:
        return (run.arms[self.of].model,)

    def depends(self, run: Run, *needs: Any) -> Any:
        c = config_of(run)
        kept = [c.contexts, c.contexts_per_trace, c.sample, c.before, c.after, c.context_tokens]
        return [self.names(run), kept, run.seed, [sorted(run.models.mapped(n).items()) for n in self.models(run)]]

    def pieces(self, run: Run, traces: list[Trace], trained: Any) -> list[FeaturePiece]:
        return [
            FeaturePiece(name, part, config_of(run), run.seed)
            for name in self.names(run)
            for part in parts_of(run.models.items(name, traces, ()))
        ]

    def work(self, models: Models, piece: FeaturePiece) -> Found:
        lm, c, markers = models[piece.model], piece.config, markers_of(models.tokenizer)
        groups = transcoder_groups(lm)
        regions = {item.trace.id: regions_of(item.trace, markers) for item in piece.items}
        counts = {item.trace.id: _counted(item.trace, c) for item in piece.items}
        layout = layout_of(
            groups,
            REGIONS,
            top=c.contexts,
            sample=c.sample,
            per_trace=c.contexts_per_trace,
            before=c.before,
            after=c.after,
        )
        reasoning = Reasoning(piece.items, layout.firsts)
        found = collect(
            lm,
            piece.items,
            groups,
            layout,
            regions,
            counts,
            seed=piece.seed,
            see=reasoning.see,
            batch_tokens=c.batch_tokens,
            on_batch=lambda done, total: models.progress(len(piece) * done // total),
        )
        return found, ActiveShard.of(layout.units, reasoning.entries, reasoning.places)

    def keep(self, path: Path, result: Found) -> None:
        save_parts(path, *(each.parts() for each in result))

    def kept(self, path: Path) -> Path:
        return path  # read where it is needed, not held

    def join(self, run: Run, results: Iterable[Path], traces: list[Trace], trained: Any) -> FeatureStore:
        names, parts = self.names(run), list(results)
        each, found = len(parts) // len(names), dict[str, CollectedUnits]()
        shards = {name: tuple(parts[number * each : (number + 1) * each]) for number, name in enumerate(names)}
        for name, own in shards.items():
            found[name] = CollectedUnits.load(own[0])
            for part in own[1:]:
                found[name].merge(CollectedUnits.load(part))
        return FeatureStore(found, shards)

    def save(self, run: Run, value: FeatureStore) -> Sequence[str]:
        written, moved = list[str](), dict[str, list[Path]]()
        for name, own in value.items():
            folder = run.folder / f"{FEATURES}/{name}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            own.save(run.folder / _file(name))
            moved[name] = [folder / f"{number:05}.safetensors" for number in range(len(value.shards[name]))]
            for file, to in zip(value.shards[name], moved[name], strict=True):
                linked(file, to)
            written += [_file(name), *(f"{FEATURES}/{name}/{to.name}" for to in moved[name])]
        value.shards = {name: tuple(own) for name, own in moved.items()}  # the pieces are deleted next
        return written

    def load(self, run: Run) -> FeatureStore:
        names = self.names(run)
        shards = {name: tuple(sorted((run.folder / f"{FEATURES}/{name}").glob("*.safetensors"))) for name in names}
        return FeatureStore({name: run.folder / _file(name) for name in names}, shards)


class Reasoning:
    """What is active at the tokens of the reasoning that another one follows, as `steerkit.units.marks` counts them.

    Attributes:
        places: trace id → places of these tokens.
        entries: (unit, row, value) of what is active there; rows are numbers among these tokens of all traces.
    """

    def __init__(self, items: Sequence[Item], firsts: Sequence[int]) -> None:
        self.firsts = firsts
        self.places = {item.trace.id: _thinking(item.trace) for item in items}
        ends = np.cumsum([len(own) for own in self.places.values()])
        self._rows = {name: int(end) - len(own) for (name, own), end in zip(self.places.items(), ends, strict=True)}
        self.entries: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def see(self, batch: Sequence[Item], active: Sequence[Active]) -> None:
        """Take in a batch."""
        width = max(len(item.ids) for item in batch)
        rows = np.full((len(batch), width), -1)
        for row, item in enumerate(batch):
            own = self.places[item.trace.id]
            rows[row, own] = self._rows[item.trace.id] + np.arange(len(own))
        for first, found in zip(self.firsts, active, strict=True):
            row = rows.ravel()[found.token.cpu().numpy()]
            own = row >= 0
            self.entries.append((found.unit.cpu().numpy()[own] + first, row[own], found.value.cpu().numpy()[own]))


def _thinking(trace: Trace) -> np.ndarray:
    begin = len(trace.prompt_ids)
    return np.arange(begin, max(begin + trace.thinking - 1, begin))


def _counted(trace: Trace, config: FeaturesConfig) -> np.ndarray:
    found = np.ones(len(trace.tokens), bool)
    if config.context_tokens == "response":
        found[: len(trace.prompt_ids)] = False
    return found


def _file(name: str) -> str:
    return f"{FEATURES}/{name}.safetensors"
