"""Graphs beside circuit-tracer: `python tests/trials/circuit_graphs.py [--graphs RUN/graphs] [--out out.json]`.

Its own reader opens the files, its server serves the folder, and its pruning keeps the same nodes and edges. Needs it
installed, without what it needs to load models (`pip install --no-deps circuit-tracer==0.5.0`). Without `--graphs`, a
graph of the embedded model with a transcoder of random weights is made.
"""

from __future__ import annotations

import argparse
import importlib
import json
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from steerkit_plugins.transcoder.adapter import TranscoderAdapter
from steerkit_plugins.transcoder.graph_build import AttributionGraph, attribution_graph
from steerkit_plugins.transcoder.graph_influence import Pruned, prune
from steerkit_plugins.transcoder.graph_viewer import INDEX, viewer_graph, write_graphs

import steerkit

SHARES = ((0.8, 0.98), (0.5, 0.9), (0.95, 0.999))


def made() -> tuple[AttributionGraph, Any]:
    """A graph of random transcoders, and its texts of ids."""
    lm = TranscoderAdapter(features=64).attach(steerkit.load_model("pocket:reasoning"), seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in lm.model.named_parameters():
            if "transcoder_parts" in name:
                weight.copy_(0.05 * torch.randn(weight.shape, generator=generator))
    lm.model.eval()
    return attribution_graph(lm, range(8, 28)), lambda token: str(lm.tokenizer.decode([token]))


def own_pruning(graph: AttributionGraph, shares: tuple[float, float]) -> Pruned:
    return prune(
        graph.edges,
        graph.levels,
        graph.weights,
        features=graph.features,
        node_threshold=shares[0],
        edge_threshold=shares[1],
    )


def pruned_alike(graph: AttributionGraph) -> Iterator[dict[str, Any]]:
    """Nodes and edges that both keep, and that only one does."""
    peer = importlib.import_module("circuit_tracer.graph")
    given = SimpleNamespace(
        input_tokens=graph.ids,
        logit_targets=graph.logits,
        selected_features=graph.layers,
        adjacency_matrix=torch.from_numpy(graph.edges),
        logit_probabilities=torch.from_numpy(graph.probabilities).float(),
    )
    for shares in SHARES:
        own, theirs = own_pruning(graph, shares), peer.prune_graph(given, *shares)
        pairs = {"nodes": (own.nodes, theirs.node_mask.numpy()), "edges": (own.edges, theirs.edge_mask.numpy())}
        counts = {name: [int((a & b).sum()), int((a ^ b).sum())] for name, (a, b) in pairs.items()}
        yield {"shares": shares, **counts}


def read(folder: Path) -> Iterator[str]:
    """Names of the graphs that its reader takes as they are. Raises: pydantic.ValidationError for another."""
    models = importlib.import_module("circuit_tracer.frontend.graph_models")
    listed = [row["slug"] for row in json.loads((folder / INDEX).read_text(encoding="utf-8"))["graphs"]]
    for slug in listed:
        text = (folder / f"{slug}.json").read_text(encoding="utf-8")
        graph = models.Model.model_validate_json(text)
        again = json.loads(graph.model_dump_json(exclude_none=True))
        if again != json.loads(text):
            raise SystemExit(f"{slug}: its reader keeps something else than stands there")
        for node in graph.nodes:
            if node.feature_type == "cross layer transcoder":
                layer, index, position = map(int, node.node_id.split("_"))
                theirs = models.Node.feature_node(layer, position, index, node.influence, node.activation)
                if theirs.model_copy(update={"clerp": node.clerp}) != node:
                    raise SystemExit(f"{slug}: {node.node_id} is not the node that it makes itself")
        yield slug


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graphs", type=Path, help="the folder of a run's graphs")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    graph, text = made()
    found: dict[str, Any] = {"features": graph.features, "edges": int(np.count_nonzero(graph.edges))}
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.graphs or Path(temporary)
        if not options.graphs:
            pruned = own_pruning(graph, SHARES[0])
            names = [""] * graph.features
            viewer = viewer_graph(graph, pruned, slug="a", model="m", text=text, names=names, node_threshold=0.8)
            write_graphs(folder, [viewer])
        if find_spec("circuit_tracer") is None:
            print("not compared with circuit-tracer, which is not installed (benchmarks/requirements.txt)")
        else:
            found["read"] = list(read(folder))
            found["pruning"] = list(pruned_alike(graph))
            print(f"read: {', '.join(found['read'])}")
            for row in found["pruning"]:
                told = ", ".join(f"{kind} {row[kind][0]} in both, {row[kind][1]} in one" for kind in ("nodes", "edges"))
                print(f"pruned to {row['shares']}: {told}")
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
