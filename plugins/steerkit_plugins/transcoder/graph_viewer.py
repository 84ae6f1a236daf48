"""Attribution graphs as JSON for circuit-tracer's viewer (its `frontend.graph_models`, schema version 1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from steerkit.store.files import write_json
from steerkit_plugins.transcoder.graph_build import AttributionGraph
from steerkit_plugins.transcoder.graph_influence import Pruned

INDEX = "graph-metadata.json"
"""The file in which the viewer finds the graphs of a folder."""
FEATURE, TOKEN, LOGIT = "cross layer transcoder", "embedding", "logit"
"""Kinds of nodes by the viewer's names."""


def viewer_graph(
    graph: AttributionGraph,
    pruned: Pruned,
    *,
    slug: str,
    model: str,
    text: Callable[[int], str],
    names: Sequence[str],
    node_threshold: float,
) -> dict[str, Any]:
    """A pruned graph as the viewer reads it.

    Args:
        slug: name of its file, without ``.json``.
        text: token id → its text.
        names: [N] what each feature is called.
    """
    tokens = [text(int(token)) for token in graph.ids]
    nodes = [*_features(graph, pruned, names), *_tokens(graph, pruned), *_logits(graph, text)]
    targets, sources = np.nonzero(pruned.edges)
    weights = graph.edges[targets, sources].astype(float).tolist()
    ids = [node["node_id"] for node in nodes]
    return {
        "metadata": {
            "slug": slug,
            # A path on the viewer's own server: it would ask a hub for features that stand in no file there.
            "scan": f"./data/{model}",
            "transcoder_list": [],
            "prompt_tokens": tokens,
            "prompt": "".join(tokens),
            "node_threshold": node_threshold,
            "schema_version": 1,
        },
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": [node for node, kept in zip(nodes, pruned.nodes.tolist(), strict=True) if kept],
        "links": [
            {"source": ids[source], "target": ids[target], "weight": weight}
            for target, source, weight in zip(targets.tolist(), sources.tolist(), weights, strict=True)
        ],
    }


def _node(**given: Any) -> dict[str, Any]:
    return {"token_prob": 0.0, "is_target_logit": False, "run_idx": 0, "reverse_ctx_idx": 0, "clerp": ""} | given


def _features(graph: AttributionGraph, pruned: Pruned, names: Sequence[str]) -> list[dict[str, Any]]:
    places = zip(graph.layers.tolist(), graph.indices.tolist(), graph.positions.tolist(), strict=True)
    return [
        _node(
            node_id=f"{layer}_{index}_{position}",
            feature=(layer + index) * (layer + index + 1) // 2 + index,  # Cantor's pairing, which the viewer undoes
            layer=str(layer),
            ctx_idx=position,
            feature_type=FEATURE,
            jsNodeId=f"{layer}_{index}-0",
            clerp=names[number],
            influence=float(pruned.cumulative[number]),
            activation=float(graph.activations[number]),
        )
        for number, (layer, index, position) in enumerate(places)
    ]


def _tokens(graph: AttributionGraph, pruned: Pruned) -> list[dict[str, Any]]:
    return [
        _node(
            node_id=f"E_{token}_{position}",
            feature=position,
            layer="E",
            ctx_idx=position,
            feature_type=TOKEN,
            jsNodeId=f"E_{token}-{position}",
            influence=float(pruned.cumulative[graph.features + position]),
        )
        for position, token in enumerate(graph.ids.tolist())
    ]


def _logits(graph: AttributionGraph, text: Callable[[int], str]) -> list[dict[str, Any]]:
    layer, last = graph.depth + 1, len(graph.ids) - 1
    return [
        _node(
            node_id=f"{layer}_{token}_{last}",
            feature=token,
            layer=str(layer),
            ctx_idx=last,
            feature_type=LOGIT,
            token_prob=share,
            is_target_logit=number == 0,
            jsNodeId=f"L_{token}-{last}",
            clerp=f'Output "{text(token)}" (p={share:.3f})',
        )
        for number, (token, share) in enumerate(zip(graph.logits.tolist(), graph.probabilities.tolist(), strict=True))
    ]


def write_graphs(folder: Path, graphs: Sequence[dict[str, Any]]) -> list[str]:
    """Write graphs and the index that the viewer opens; returns the files' names."""
    folder.mkdir(parents=True, exist_ok=True)
    for graph in graphs:
        write_json(folder / f"{graph['metadata']['slug']}.json", graph)
    write_json(folder / INDEX, {"graphs": [graph["metadata"] for graph in graphs]})
    return [*(f"{graph['metadata']['slug']}.json" for graph in graphs), INDEX]
