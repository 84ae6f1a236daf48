"""Is the vector a detector? Its projection at every token of unsteered texts, and what begins soon after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from steerkit.conditions import Planner, VectorKey, none
from steerkit.data.chats import to_json
from steerkit.data.importing import place
from steerkit.data.tokens import make_trace
from steerkit.data.trace import Item, Prompt, Trace
from steerkit.errors import SteerkitError
from steerkit.extraction.extract import read_layer
from steerkit.stats.detection import auroc, begins_within
from steerkit.steps.generations import FILE as GENERATIONS
from steerkit.store.files import read_whole_lines, write_jsonl
from steerkit.tables import write_csv
from steerkit.vectors.steering_vector import SteeringVector

if TYPE_CHECKING:
    from steerkit.run import SteeringTrainer
    from steerkit.settings import Projection

COLUMNS = (
    "source",
    "target",
    "layer",
    "within",
    "auroc",
    "ci_low",
    "ci_high",
    "n_hits",
    "n_tokens",
    "n_traces",
    "label",
)
FILES = ["projections.jsonl", "detection.csv"]


def projection(
    trainer: SteeringTrainer, prompts: Sequence[Prompt], vectors: Mapping[VectorKey, SteeringVector]
) -> None:
    """``projections.jsonl`` (v̂·(h − h̄) at every generated token) and ``detection.csv`` (AUROC by tokens ahead)."""
    wanted = trainer.args.projection
    if wanted is None:
        return
    planner = Planner(trainer.args, trainer.pair.base.depth, {})
    vector = vectors[dict(zip(("base", "reasoning"), planner.main_vectors(), strict=True))[wanted.source]]

    def make(key: str) -> tuple[None, list[str]]:
        traces = unsteered_traces(trainer, prompts)
        values = project(trainer, wanted.role, traces, vector)
        labelled = trainer.span_judge.annotate([trace.text for trace in traces])
        rows = []
        for trace, own, spans in zip(traces, values, labelled, strict=True):
            first = len(trace.prompt_ids)
            begins = [place(trace, a, b, x, "").first - first for a, b, x in spans if x == planner.label]
            rows.append(
                {
                    "id": trace.id,
                    "prompt": to_json(trace.prompt),
                    "text": trace.text,
                    "starts": trace.starts[: trace.thinking],
                    "values": [round(float(v), 5) for v in own],
                    "begins": begins,
                }
            )
        write_jsonl(trainer.folder / FILES[0], rows)
        found = [_detect(trainer, wanted, planner.label, rows, n) for n in wanted.within]
        write_csv(trainer.folder / FILES[1], COLUMNS, found)
        return None, FILES

    args = trainer.args
    inputs = [
        trainer.keys["vectors"],
        trainer.keys["test"],
        wanted.model_dump(),
        args.layer,
        args.bf16,
        trainer.identities["span_judge"],
        args.think_end,
        args.confidence,
        args.resamples,
        args.seed,
    ]
    trainer.stage("projection", inputs, make, lambda: None)


def unsteered_traces(trainer: SteeringTrainer, prompts: Sequence[Prompt]) -> list[Trace]:
    """The reasoning model's unsteered test texts, with their tokens."""
    tokenizer, args = trainer.pair.reasoning.tokenizer, trainer.args
    by_id = {prompt.id: prompt for prompt in prompts}
    unsteered = none("reasoning").id
    found = []
    for row in read_whole_lines(trainer.folder / GENERATIONS):
        if row["split"] == "test" and row["condition"] == unsteered:
            prompt = by_id[row["prompt_id"]]
            named = Prompt(id=f"{prompt.id}-{row['sample']}", prompt=prompt.prompt)
            prompt_ids = trainer.chats.ids(prompt.prompt)
            found.append(make_trace(tokenizer, named, prompt_ids, row["ids"], row["finished"], args.think_end))
    return found


def project(trainer: SteeringTrainer, role: str, traces: Sequence[Trace], vector: SteeringVector) -> list[np.ndarray]:
    """v̂·(h − h̄) of one model's activations h at every reasoning token of each trace, h̄ the source's mean."""
    layer = trainer.args.layer
    unit, mean = vector.unit(layer), vector.means[layer]
    items = [Item(trace, (), trainer.pair.ids_for(role, trace.tokens)) for trace in traces]
    found: dict[str, np.ndarray] = {}
    for batch, hidden in read_layer(trainer.pair[role], items, layer, batch_tokens=trainer.args.batch_tokens):
        values = ((hidden.float() - mean.to(hidden.device)) @ unit.to(hidden.device)).cpu().numpy()
        for item, row in zip(batch, values, strict=True):
            first = len(item.trace.prompt_ids)
            own = found[item.trace.id] = row[first : first + item.trace.thinking].copy()
            if not np.isfinite(own).all():
                token = first + int(np.argmin(np.isfinite(own)))
                raise SteerkitError(
                    f"{trainer.pair[role].name}: the projection of token {token} of text {item.trace.id!r} at block "
                    f"{layer} is not a finite number; half precision overflows like this: use bf16 or float32"
                )
    return [found[trace.id] for trace in traces]


def _detect(
    trainer: SteeringTrainer, wanted: Projection, label: str, rows: Sequence[dict[str, Any]], within: int
) -> dict[str, Any]:
    args = trainer.args
    hits = [begins_within(len(row["values"]), row["begins"], within) for row in rows]
    scores = [np.array(row["values"]) for row in rows]
    found = auroc(scores, hits, confidence=args.confidence, resamples=args.resamples, seed=args.seed)
    return {
        "source": wanted.source,
        "target": wanted.role,
        "layer": args.layer,
        "within": within,
        "auroc": found.mean,
        "ci_low": found.low,
        "ci_high": found.high,
        "n_hits": int(sum(h.sum() for h in hits)),
        "n_tokens": sum(map(len, scores)),
        "n_traces": found.n,
        "label": label,
    }
