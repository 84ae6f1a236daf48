"""Attribution graphs right before sentences with a label: a step."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from steerkit.context import Run
from steerkit.data.placing import decode
from steerkit.data.trace import Item, Span, Trace
from steerkit.errors import SteerkitError
from steerkit.models.models import Models
from steerkit.parts import Step
from steerkit.settings import Chatting
from steerkit.store.files import write_json
from steerkit.training.settings import Training
from steerkit_plugins.transcoder.arms import Diffing, models_of
from steerkit_plugins.transcoder.graph_build import AttributionGraph, attribution_graph
from steerkit_plugins.transcoder.graph_config import FOLDER, GraphConfig, config_of
from steerkit_plugins.transcoder.graph_influence import prune
from steerkit_plugins.transcoder.graph_viewer import viewer_graph, write_graphs

Found = Mapping[str, Any]
"""One graph: `model`, `place`, figures about it, and `graph`, the JSON for the viewer."""


@dataclass(frozen=True)
class GraphPiece:
    """A model and a text.

    Attributes:
        place: where the text ends, in words that tell places apart.
        ids: of the text.
        following: id of the token that follows in the trace; −1 for a text of the settings.
    """

    model: str
    place: str
    ids: tuple[int, ...]
    following: int
    config: GraphConfig

    def __len__(self) -> int:
        return 100


class AttributionGraphs(Step):
    """``graphs/MODEL.PLACE.json`` for circuit-tracer's viewer, and figures about them.

    Its name is ``attribution-graphs.ARM``: a graph for each place and each of the arm's models, one a training seed.
    """

    uses = (Training, Diffing, Chatting)

    def needs(self, run: Run) -> Sequence[str]:
        return ("traces", "spans", "training")

    def names(self, run: Run) -> list[str]:
        """The models."""
        return models_of(run, run.arms[self.of])

    def models(self, run: Run) -> Sequence[str]:
        return (run.arms[self.of].model,)

    def depends(self, run: Run, *needs: Any) -> Any:
        mapped = [sorted(run.models.mapped(name).items()) for name in self.models(run)]
        drawn = {"figures", "drawn", "batch_tokens"}
        return [self.names(run), run.seed, mapped, config_of(run).model_dump(mode="json", exclude=drawn)]

    def pieces(self, run: Run, traces: list[Trace], spans: tuple[list[Span], Any], trained: Any) -> list[GraphPiece]:
        c, found = config_of(run), list[GraphPiece]()
        texts = [tuple(run.chats.tokenizer(text)["input_ids"]) for text in c.texts]
        for name in self.names(run):
            items = run.models.items(name, traces, spans[0])
            for item, first in places_of(items, c.label, c.places, c.max_tokens, run.seed):
                place = f"{item.trace.id}.{first}"
                found.append(GraphPiece(name, place, tuple(item.ids[:first]), item.ids[first], c))
            for number, ids in enumerate(texts):
                found.append(GraphPiece(name, f"text-{number}", tuple(run.models.ids_for(name, ids)), -1, c))
        if not found:
            raise SteerkitError(
                f"{self.name}: no {c.label} sentence begins within {c.max_tokens:,} tokens, and no texts are given; "
                "take more traces (prompts.extract), or give graph.texts"
            )
        return found

    def work(self, models: Models, piece: GraphPiece) -> dict[str, Any]:
        c, lm = piece.config, models[piece.model]
        graph = attribution_graph(
            lm,
            piece.ids,
            max_nodes=c.max_nodes,
            max_logits=c.max_logits,
            logit_share=c.logit_share,
            edge_target=c.edge_target,
            bos_nodes=c.bos_nodes,
            batch_tokens=c.batch_tokens,
            on_batch=lambda done, total: models.progress(len(piece) * done // total),
        )
        pruned = prune(
            graph.edges,
            graph.levels,
            graph.weights,
            features=graph.features,
            node_threshold=c.node_threshold,
            edge_threshold=c.edge_threshold,
        )
        kept = np.flatnonzero(pruned.nodes[: graph.features])
        named = dict(zip(kept.tolist(), _lens(lm, graph, kept, c), strict=True))
        viewer = viewer_graph(
            graph,
            pruned,
            slug=re.sub(r"[^\w.-]", "-", f"{piece.model}.{piece.place}"),
            model=piece.model,
            text=lambda token: decode(lm.tokenizer, [token]),
            names=[named.get(number, "") for number in range(graph.features)],
            node_threshold=c.node_threshold,
        )
        return {
            "model": piece.model,
            "place": piece.place,
            "following": decode(lm.tokenizer, [piece.following]) if piece.following >= 0 else "",
            "active": graph.active,
            "features": graph.features,
            "edges": int(np.count_nonzero(graph.edges)),
            "kept_features": len(kept),
            "kept_edges": len(viewer["links"]),
            "shares": graph.shares(),
            "gap": graph.gap,
            "graph": viewer,
        }

    def save(self, run: Run, value: Sequence[Found]) -> Sequence[str]:
        write_json(run.folder / self._file, [{**own, "graph": own["graph"]["metadata"]["slug"]} for own in value])
        names = write_graphs(run.folder / FOLDER, [own["graph"] for own in value])
        return [self._file, *(f"{FOLDER}/{name}" for name in names)]

    def load(self, run: Run) -> list[Found]:
        rows = json.loads((run.folder / self._file).read_text(encoding="utf-8"))
        files = [run.folder / FOLDER / f"{own['graph']}.json" for own in rows]
        return [
            {**own, "graph": json.loads(file.read_text(encoding="utf-8"))}
            for own, file in zip(rows, files, strict=True)
        ]


def places_of(items: Sequence[Item], label: str, count: int, longest: int, seed: int) -> list[tuple[Item, int]]:
    """Traces and numbers of the tokens with which sentences with a label begin, drawn by a seed.

    Each trace's first place comes before any trace's second one.

    Args:
        longest: tokens that may stand before a place.
    """
    order, found = np.random.default_rng(seed).permutation(len(items)), list[tuple[int, int, Item, int]]()
    for rank, number in enumerate(order.tolist()):
        item = items[number]
        firsts = sorted(span.first for span in item.spans if span.label == label and 1 <= span.first <= longest)
        found += [(turn, rank, item, first) for turn, first in enumerate(firsts)]
    found.sort(key=lambda each: each[:2])
    return [(item, first) for _, _, item, first in found[:count]]


def _lens(lm: Any, graph: AttributionGraph, numbers: np.ndarray, config: GraphConfig) -> list[str]:
    """Of some features, the tokens that their decoders make likelier, in one text each."""
    import torch

    from steerkit.vectors.lens import LogitLens
    from steerkit_plugins.transcoder.units import transcoder_groups

    lens, found = LogitLens(lm, (), final_norm=config.lens_norm), [""] * len(numbers)
    for group in transcoder_groups(lm):
        own = np.flatnonzero(graph.layers[numbers] == group.layer)
        if len(own):
            directions = group.writes[torch.from_numpy(graph.indices[numbers[own]]).to(group.writes.device)]
            for place, top in zip(own.tolist(), lens.logits(directions).topk(config.lens_tokens).indices, strict=True):
                found[place] = " · ".join(
                    lens.texts[token].strip() or repr(lens.texts[token]) for token in top.tolist()
                )
    return found
