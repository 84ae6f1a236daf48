"""Statistics of both models over the traces, and the vectors fitted to them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from steerkit.conditions import Planner, VectorKey
from steerkit.data.statistics import ActivationStatistics
from steerkit.data.trace import Item, Span, Trace
from steerkit.errors import SteerkitError
from steerkit.extraction.extract import extract, made_by
from steerkit.provenance import provenance
from steerkit.steps.spans import FILES as SPANS
from steerkit.steps.traces import FILE as TRACES
from steerkit.store.files import digest, file_digest
from steerkit.vectors.fit import fit
from steerkit.vectors.steering_vector import SteeringVector

if TYPE_CHECKING:
    from steerkit.run import SteeringTrainer


def vectors(
    trainer: SteeringTrainer, traces: Sequence[Trace], spans: Sequence[Span]
) -> dict[VectorKey, SteeringVector]:
    """Every vector that the experiments need, in ``vectors/``."""
    statistics = {"base": statistics_of(trainer, "base", traces, spans)}
    if trainer.pair.same and not trainer.pair.mapped("base"):  # one model under two names is read once
        same = statistics["base"]
        statistics["reasoning"] = ActivationStatistics(same.windows, {**same.meta, "source": "reasoning"})
        trainer.keys["extract reasoning"] = trainer.keys["extract base"]
    else:
        statistics["reasoning"] = statistics_of(trainer, "reasoning", traces, spans)
    planner = Planner(trainer.args, trainer.pair.base.depth, {})
    keys = planner.vectors()
    folder = trainer.folder / "vectors"

    def make(key: str) -> tuple[dict[VectorKey, SteeringVector], list[str]]:
        made = {k: fit_vector(trainer, k, statistics[k.source]) for k in keys}
        for k, vector in made.items():
            vector.save(folder / k.file)
        base, reasoning = (made[k] for k in planner.main_vectors())
        trainer.log(cosine={str(layer): round(value, 4) for layer, value in base.cosine(reasoning).items()})
        return made, [f"vectors/{k.file}" for k in keys]

    inputs = [
        trainer.keys["extract base"],
        trainer.keys["extract reasoning"],
        trainer.identities["fitter"],
        trainer.identities.get("baseline_fitter"),
        [k.file for k in keys],
    ]
    return trainer.stage("vectors", inputs, make, lambda: {k: SteeringVector.load(folder / k.file) for k in keys})


def statistics_of(
    trainer: SteeringTrainer, role: str, traces: Sequence[Trace], spans: Sequence[Span]
) -> ActivationStatistics:
    """One model's statistics, in ``stats/ROLE.safetensors``."""
    name, args = f"stats/{role}.safetensors", trainer.args
    labels = sorted({*trainer.span_judge.labels(), *(span.label for span in spans)})

    def part() -> None:
        collect(trainer, role, trainer.pair.items(role, traces, spans), labels)

    def make(key: str) -> tuple[ActivationStatistics, list[str]]:
        found = merge(trainer, role)
        main = found.at(tuple(trainer.fitter.config.window))
        counted = {k: main.count(k, "span") for k in labels}
        trainer.log(role=role, dropped_windows=main.dropped, counted=counted, batches=trainer.pair[role].batches)
        return found, [name]

    inputs = [
        trainer.keys["spans"],
        trainer.keys["traces"],
        trainer.identities[role],
        labels,
        trainer.identities["extractor"],
        sorted(trainer.needs),
        args.bf16,
        trainer.pair.mapped(role),
    ]
    return trainer.stage(
        f"extract {role}", inputs, make, lambda: ActivationStatistics.load(trainer.folder / name), part=part
    )


def merge(trainer: SteeringTrainer, role: str) -> ActivationStatistics:
    """The sum of all parts, in their order, in ``stats/ROLE.safetensors``."""
    total: ActivationStatistics | None = None
    for path in trainer.parts(f"extract {role}").files:
        part = ActivationStatistics.load(path)
        if part.windows:  # a shard may have no trace
            total = part if total is None else total + part
    if total is None:
        raise SteerkitError("there is no trace to extract from")
    made = ActivationStatistics(total.windows, {**made_by(trainer.pair[role]), "source": role})
    made.save(trainer.folder / f"stats/{role}.safetensors")
    own = raw_folder(trainer, role)
    for other in own.parent.glob("*"):  # of an extraction that this one takes the place of
        if other != own:
            shutil.rmtree(other)
    return made


def raw_folder(trainer: SteeringTrainer, role: str) -> Path:
    """Where single spans' windows go: windows read in another way, of the same traces, have another place."""
    return trainer.folder / f"stats/{role}/{trainer.keys[f'extract {role}']}"


def collect(trainer: SteeringTrainer, role: str, items: Sequence[Item], labels: Sequence[str]) -> None:
    """Statistics of one model over this process's share of the traces, which are dealt by length."""
    args, stage = trainer.args, f"extract {role}"
    path = trainer.parts(stage).growing
    items = trainer.shard.of_all(sorted(items, key=lambda item: (len(item.ids), item.trace.id)))
    before = ActivationStatistics.load(path) if path.is_file() else None
    done = before.meta["done"] if before else []

    batches: list[tuple[int, int]] = []  # done, of all

    def on_batch(number: int, count: int) -> None:
        batches.append((number, count))
        trainer.events.on_progress(trainer, stage, number, count)

    def keep(so_far: ActivationStatistics, traces: Sequence[str] = ()) -> None:
        ActivationStatistics(so_far.windows, {"done": [*done, *traces]}).save(path)
        if batches:
            trainer.events.on_batch_end(trainer, stage, *batches[-1])

    if len(done) == len(items):  # also a shard that none was dealt to
        keep(before or ActivationStatistics({}))
        return
    own = [item.trace.id for item in items]
    found = extract(
        trainer.pair[role],
        items,
        trainer.extractor,
        labels,
        needs=trainer.needs,
        raw_folder=raw_folder(trainer, role),
        batch_tokens=args.batch_tokens,
        before=before,
        skip=done,
        on_part=keep,
        on_batch=on_batch,
    )
    keep(found, [name for name in own if name not in set(done)])


def fit_vector(trainer: SteeringTrainer, key: VectorKey, statistics: ActivationStatistics) -> SteeringVector:
    """One vector, with where it came from."""
    pool = None if key.pool == "own" else max(statistics.windows, key=lambda w: w[1] - w[0])
    made_like = trainer.fitter if key.label == trainer.fitter.config.label else trainer.baseline_fitter
    fitter = made_like.replace(label=key.label, window=key.window)
    data = digest([file_digest(trainer.folder / name) for name in (TRACES, SPANS[0])])
    return fit(fitter, statistics, pool, data=data, provenance=provenance(trainer))
