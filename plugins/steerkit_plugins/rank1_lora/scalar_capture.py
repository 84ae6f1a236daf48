"""Scalars of the run's trained adapters at every token of its traces: a step of large, mapped files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steerkit.context import Run
from steerkit.data.trace import Item, Trace
from steerkit.models.lora_units import lora_groups
from steerkit.models.models import Models
from steerkit.models.units import units_in, write_norms
from steerkit.parts import Step
from steerkit.store.files import atomic, linked
from steerkit.training.settings import Training
from steerkit.units.contexts import TopContexts
from steerkit.units.reading import read_units
from steerkit.units.store import Shard, UnitStore
from steerkit_plugins.rank1_lora.arms import adapted
from steerkit_plugins.trained.parts import parts_of

SCALARS = "scalars"
"""The experiment whose settings these are, and the folder."""


@dataclass(frozen=True)
class ScalarPiece:
    """A model and the traces that it reads."""

    model: str
    items: tuple[Item, ...]
    batch_tokens: int

    def __len__(self) -> int:
        return len(self.items)


class Captured(Mapping[str, UnitStore]):
    """Model name → its scalars; and where each of them is strongest."""

    def __init__(self, files: Mapping[str, Sequence[Path]], contexts: Mapping[str, TopContexts | Path]) -> None:
        self.files = {name: tuple(own) for name, own in files.items()}
        self._stores: dict[str, UnitStore] = {}
        self._contexts = dict(contexts)

    def __getitem__(self, name: str) -> UnitStore:
        if name not in self._stores:
            self._stores[name] = UnitStore(self.files[name])
        return self._stores[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)

    def contexts(self, name: str) -> TopContexts:
        """The strongest tokens of each unit of a model, in the scale of the experiment."""
        own = self._contexts[name]
        if isinstance(own, Path):
            own = self._contexts[name] = TopContexts.from_json(json.loads(own.read_text(encoding="utf-8")))
        return own

    def move(self, files: Mapping[str, Sequence[Path]]) -> None:
        """Read from other files with the same contents."""
        self.files = {name: tuple(own) for name, own in files.items()}
        self._stores.clear()


class UnitScalars(Step):
    """``scalars/MODEL/*.safetensors``: A x of every adapter, at every token of every trace, and the top contexts in
    ``scalars/MODEL.contexts.json``. The models are those of the experiment `scalars`."""

    uses = (Training,)

    def needs(self, run: Run) -> Sequence[str]:
        return ("traces", "training")

    def models(self, run: Run) -> Sequence[str]:
        return (_config(run).base,)

    def depends(self, run: Run, *needs: Any) -> Any:
        c = _config(run)
        contexts = [c.scale, c.contexts, c.context_width, c.contexts_per_trace, c.context_least, c.context_tokens]
        return [adapted(run, c), run.models.mapped(c.base), contexts]

    def pieces(self, run: Run, traces: list[Trace], trained: Any) -> list[ScalarPiece]:
        c = _config(run)
        return [
            ScalarPiece(name, part, c.batch_tokens)
            for name in adapted(run, c)
            for part in parts_of(run.models.items(name, traces, ()))
        ]

    def work(self, models: Models, piece: ScalarPiece) -> Shard:
        lm = models[piece.model]
        groups, found = lora_groups(lm), dict[str, np.ndarray]()
        read_units(
            lm,
            piece.items,
            groups,
            lambda item, numbers: found.update({item.trace.id: numbers.numpy().copy()}),
            batch_tokens=piece.batch_tokens,
            on_batch=lambda done, total: models.progress(len(piece) * done // total),
        )
        names = tuple(item.trace.id for item in piece.items)
        return Shard(
            units=units_in(groups),
            norms=write_norms(groups).numpy(),
            traces=names,
            lengths=tuple(len(found[name]) for name in names),
            rows=np.concatenate([found[name] for name in names]),
        )

    def keep(self, path: Path, result: Shard) -> None:
        result.save(path)

    def kept(self, path: Path) -> Path:
        return path  # read where it is needed, not held

    def join(self, run: Run, results: Iterable[Path], traces: list[Trace], trained: Any) -> Captured:
        names, files = adapted(run, _config(run)), list(results)
        each = len(files) // len(names)
        captured = Captured({name: files[i * each : (i + 1) * each] for i, name in enumerate(names)}, {})
        return Captured(captured.files, {name: self._strongest(run, captured[name], traces) for name in names})

    def _strongest(self, run: Run, store: UnitStore, traces: Sequence[Trace]) -> TopContexts:
        c = _config(run)
        found = TopContexts(c.contexts, c.context_width, c.contexts_per_trace, c.context_least)
        first = {trace.id: len(trace.prompt_ids) if c.context_tokens == "response" else 0 for trace in traces}
        for number, name in enumerate(store.traces):
            found.add(name, store.of(name, c.scale), first[name])
            if number % 64 == 0:
                run.progress(number, len(store.traces))
        return found

    def save(self, run: Run, value: Captured) -> Sequence[str]:
        moved, written = dict[str, list[Path]](), []
        for name, files in value.files.items():
            folder = run.folder / f"{SCALARS}/{name}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            moved[name] = [folder / f"{number:05}.safetensors" for number in range(len(files))]
            for file, to in zip(files, moved[name], strict=True):
                linked(file, to)
            written += [f"{SCALARS}/{name}/{to.name}" for to in moved[name]]
            written.append(_contexts_file(name))
            with atomic(run.folder / written[-1]) as temporary:
                temporary.write_text(json.dumps(value.contexts(name).to_json()), encoding="utf-8")
        value.move(moved)  # the pieces are deleted next
        return written

    def load(self, run: Run) -> Captured:
        names = adapted(run, _config(run))
        files = {name: sorted((run.folder / f"{SCALARS}/{name}").glob("*.safetensors")) for name in names}
        return Captured(files, {name: run.folder / _contexts_file(name) for name in names})


def _config(run: Run) -> Any:
    return run.experiment(SCALARS).config


def _contexts_file(name: str) -> str:
    return f"{SCALARS}/{name}.contexts.json"
