"""Statistics of both models over the traces, and the vectors fitted to them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit import registry
from steerkit.conditions import VectorKey
from steerkit.extraction import Item, batches, extract
from steerkit.statistics import ActivationStatistics
from steerkit.trace import Span, Trace, spans_by_trace
from steerkit.vector import SteeringVector, VectorInfo

if TYPE_CHECKING:
    from steerkit.interfaces import VectorFitter
    from steerkit.trainer import SteeringTrainer

SAVE_SHARE = 0.05  # of the extraction's time that may go into keeping what it has


def items_for(trainer: SteeringTrainer, role: str, traces: Sequence[Trace], spans: Sequence[Span]) -> list[Item]:
    """Traces with their spans, as one model of the pair reads them."""
    grouped = spans_by_trace(spans)
    return [Item(t, grouped.get(t.id, ()), trainer.pair.ids_for(role, t.tokens)) for t in traces]


def collect(
    trainer: SteeringTrainer, role: str, items: Sequence[Item], labels: Sequence[str], key: str
) -> ActivationStatistics:
    """Statistics of one model over all traces; resumes from ``stats/ROLE.partial.safetensors``."""
    folder, args = trainer.folder, trainer.args
    stage = f"extract {role}"
    path = folder / f"stats/{role}.safetensors"
    partial = path.with_name(f"{role}.partial.safetensors")
    before = ActivationStatistics.load(partial) if partial.is_file() else None
    if before and before.meta["key"] != key:
        before = None
    skip = set(before.meta["done"]) if before else set()
    order = [[i.trace.id for i in b] for b in batches([i for i in items if i.trace.id not in skip], args.batch_tokens)]
    state: dict[str, Any] = {"total": before, "done": sorted(skip), "saving": 0.0, "begin": time.monotonic()}

    def keep() -> None:
        began = time.monotonic()
        ActivationStatistics(state["total"].windows, {"done": state["done"], "key": key}).save(partial)
        state["saving"] += time.monotonic() - began

    def on_batch(number: int, count: int, part: ActivationStatistics) -> None:
        state["total"] = part if state["total"] is None else state["total"] + part
        state["done"] = [*state["done"], *order[number - 1]]
        if state["saving"] <= SAVE_SHARE * (time.monotonic() - state["begin"]):
            keep()
        trainer.events.on_batch_end(trainer, stage, number, count)

    try:
        extract(
            trainer.pair[role], items, trainer.extractor, labels, needs=trainer.fitter.needs,
            raw_folder=folder / "stats", batch_tokens=args.batch_tokens, on_batch=on_batch, skip=skip,
        )  # fmt: skip
    except BaseException:
        if state["total"] is not None:
            keep()
        raise
    meta = {"model": trainer.pair[role].name, "fingerprint": trainer.pair[role].fingerprint, "role": role}
    total = ActivationStatistics(state["total"].windows, meta)
    total.save(path)
    partial.unlink(missing_ok=True)
    return total


def fit_vector(trainer: SteeringTrainer, key: VectorKey, statistics: ActivationStatistics, data: str) -> SteeringVector:
    """One vector, with where it came from."""
    pool = None if key.pool == "own" else max(statistics.windows, key=lambda w: w[1] - w[0])
    fitter = trainer.fitter.replace(label=key.label, window=key.window)
    lm = trainer.pair[key.source]
    return fit(
        fitter, statistics, pool=pool, source=key.source, model=lm.name, fingerprint=lm.fingerprint, depth=lm.depth,
        data=data, provenance=trainer.provenance(),
    )  # fmt: skip


def fit(
    fitter: VectorFitter,
    statistics: ActivationStatistics,
    *,
    pool: tuple[int, int] | None = None,
    **info: Any,
) -> SteeringVector:
    """Fit a SteeringVector to statistics; `info` are VectorInfo's remaining fields.

    Args:
        pool: fit over the spans eligible for this wider range, to compare windows on the same spans.

    Raises:
        SteerkitError: the window was not extracted, or a set of spans is empty.
    """
    c = fitter.config
    window = statistics.at(tuple(c.window), pool)
    directions = fitter.fit(window)
    means, residual = window.mean("all"), window.residual_norm()
    place = {layer: i for i, layer in enumerate(window.layers)}
    options = {k: v for k, v in c.model_dump().items() if k not in ("label", "window", "scale")}
    described = VectorInfo(
        method=f"{fitter.name} {options}" if options else fitter.name,
        label=c.label,
        window=tuple(c.window),
        scale=c.scale,
        positives={"traces": window.count(c.label), "spans": window.count(c.label, "span")},
        **info,
    )
    return SteeringVector(
        directions,
        described,
        means={layer: means[place[layer]] for layer in directions},
        norms={layer: (float(means[place[layer]].norm()), float(residual[place[layer]])) for layer in directions},
    )


def load_vectors(folder: Path, keys: Sequence[VectorKey]) -> dict[VectorKey, SteeringVector]:
    """Vectors of a run folder."""
    return {key: SteeringVector.load(folder / "vectors" / key.file) for key in keys}


def plugin_versions(args: Any) -> dict[str, str]:
    """Package and version of every plugin that the arguments name."""
    named = [
        ("judges", args.span_judge), ("judges", args.score_judge), ("extractors", args.extractor),
        ("fitters", args.fitter), ("steerers", args.steerer), *(("steerers", b) for b in args.baselines),
    ]  # fmt: skip
    return {f"{kind}/{spec.name}": registry.versions(kind, spec.name) for kind, spec in named}
