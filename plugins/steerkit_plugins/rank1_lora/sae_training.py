"""SAEs on the scalars of the run's trained adapters: trained on one half of the traces, measured on the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from steerkit.context import Run
from steerkit.models.devices import choose_device
from steerkit.models.models import Models
from steerkit.parts import Step
from steerkit.settings import Intervals
from steerkit.training.settings import Training
from steerkit.units.detection import halves
from steerkit.units.store import UnitStore
from steerkit_plugins.rank1_lora.arms import adapted
from steerkit_plugins.rank1_lora.sae.measured import Measures
from steerkit_plugins.rank1_lora.sae.options import SAEOptions
from steerkit_plugins.rank1_lora.sae.rows import TraceRows
from steerkit_plugins.rank1_lora.sae.trained import Inference, TrainedSAE
from steerkit_plugins.rank1_lora.scalar_capture import SCALARS

SAE = "sae"
"""The experiment whose settings these are."""
HELD_OUT = "held_out"


@dataclass(frozen=True)
class SAEPiece:
    """One SAE.

    Attributes:
        model: whose scalars these are.
        choosing, testing: traces that it is trained and measured on.
        bootstrap: confidence, resamples and seed of the intervals.
        tokens: of all of these traces.
    """

    model: str
    store: UnitStore
    options: SAEOptions
    choosing: tuple[str, ...]
    testing: tuple[str, ...]
    bootstrap: Mapping[str, Any]
    tokens: int

    def __len__(self) -> int:
        return self.tokens


class TrainSAEs(Step):
    """``saes/MODEL.VARIANT.safetensors``: an SAE of each model, variant and seed, by its name. Measures on the other
    half of the traces stand in its `told`."""

    uses = (Training, Intervals)

    def needs(self, run: Run) -> Sequence[str]:
        return ("unit-scalars",)

    def depends(self, run: Run, *needs: Any) -> Any:
        return [[name, model, options.model_dump()] for name, model, options in saes_of(run)], _seed(run)

    def pieces(self, run: Run, scalars: Mapping[str, UnitStore]) -> list[SAEPiece]:
        i, found = run.use(Intervals), []
        bootstrap = {"confidence": i.confidence, "resamples": i.resamples, "seed": run.seed}
        for _, model, options in saes_of(run):
            store = scalars[model]
            choosing, testing = (tuple(sorted(half)) for half in halves(store.traces, _seed(run)))
            tokens = sum(map(store.length, store.traces))
            found.append(SAEPiece(model, store, options, choosing, testing, bootstrap, tokens))
        return found

    def work(self, models: Models, piece: SAEPiece) -> TrainedSAE:
        from steerkit_plugins.rank1_lora.sae.measures import measure
        from steerkit_plugins.rank1_lora.sae.training import train

        store, device = piece.store, choose_device(models.loading.device)
        kept = piece.options.first_tokens == "kept"
        names = [unit.name for unit in store.units]
        sae = train(
            TraceRows(store, piece.choosing, kept),
            names,
            store.norms,
            piece.options,
            device=device,
            meta={"model": piece.model, "traces": len(piece.choosing)},
            on_batch=lambda done, total: models.progress(int(0.9 * len(piece) * done / total)),
        )
        measured = measure(
            sae,
            TraceRows(store, piece.testing, kept),
            **piece.bootstrap,
            device=device,
            on_batch=lambda done, total: models.progress(int((0.9 + 0.1 * done / total) * len(piece))),
        )
        return replace(sae, told={**sae.told, HELD_OUT: {how: each.to_json() for how, each in measured.items()}})

    def keep(self, path: Path, result: TrainedSAE) -> None:
        result.save(path)

    def kept(self, path: Path) -> TrainedSAE:
        return TrainedSAE.load(path)

    def join(self, run: Run, results: Iterable[TrainedSAE], *needs: Any) -> dict[str, TrainedSAE]:
        found = dict(zip((name for name, _, _ in saes_of(run)), results, strict=True))
        for name, sae in found.items():
            run.log(sae=name, **sae.told)
        return found

    def save(self, run: Run, value: Mapping[str, TrainedSAE]) -> Sequence[str]:
        for name, sae in value.items():
            sae.save(run.folder / file_of(name))
        return [file_of(name) for name in value]

    def load(self, run: Run) -> dict[str, TrainedSAE]:
        return {name: TrainedSAE.load(run.folder / file_of(name)) for name, _, _ in saes_of(run)}


def saes_of(run: Run) -> Iterator[tuple[str, str, SAEOptions]]:
    """(name, model, options) of each SAE; with several SAE seeds these end the names: ``adapter.0.author.1``."""
    c = run.experiment(SAE).config
    for model in adapted(run, c):
        for variant in c.variants:
            for seed in c.sae_seeds:
                ending = f".{seed}" if len(c.sae_seeds) > 1 else ""
                yield f"{model}.{variant}{ending}", model, c.sae(variant, seed)


def file_of(name: str) -> str:
    """Where an SAE stands in the run folder."""
    return f"saes/{name}.safetensors"


def held_out(sae: TrainedSAE) -> dict[Inference, Measures]:
    """What was measured on the testing half."""
    return {how: Measures.from_json(value) for how, value in sae.told[HELD_OUT].items()}


def _seed(run: Run) -> int:
    return int(run.experiment(SCALARS).config.halves_seed)
