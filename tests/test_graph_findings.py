"""Places of graphs, the JSON of circuit-tracer's viewer, and what the experiment makes of graphs."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from steerkit_plugins.transcoder.graph import Graph
from steerkit_plugins.transcoder.graph_config import GraphConfig
from steerkit_plugins.transcoder.graph_step import AttributionGraphs, GraphPiece, places_of
from steerkit_plugins.transcoder.graph_viewer import INDEX
from tiny import LABELS, random_items
from tiny_transcoder import with_transcoder

from steerkit.report.sound import problems_of

IDS = (5, 9, 12, 33, 7, 20, 8, 11, 40)


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    models: Any = {"l1.0": with_transcoder("llama")}
    models = type("M", (dict,), {"progress": lambda self, done: None})(models)
    piece = GraphPiece("l1.0", "t0.9", IDS, 3, GraphConfig(max_nodes=60))
    return AttributionGraphs().work(models, piece)


def test_places_are_first_tokens_of_the_labels_sentences() -> None:
    items = random_items(9)
    whole = places_of(items, LABELS[0], 1000, 30, 0)
    expected = {(i.trace.id, s.first) for i in items for s in i.spans if s.label == LABELS[0] and s.first <= 30}
    assert {(item.trace.id, first) for item, first in whole} == expected and len(whole) == len(expected)
    traces = [item.trace.id for item, _ in whole]
    several = len(set(traces))
    assert len(set(traces[:several])) == several < len(traces)  # a place of each trace first
    assert places_of(items, LABELS[0], 3, 30, 0) == whole[:3]
    assert [first for _, first in places_of(items, LABELS[0], 1000, 30, 1)] != [first for _, first in whole]


def test_the_viewers_json(found: dict[str, Any], tmp_path: Path) -> None:
    graph = found["graph"]
    assert set(graph) == {"metadata", "qParams", "nodes", "links"}
    assert set(graph["qParams"]) == {"pinnedIds", "supernodes", "linkType", "clickedId", "sg_pos"}
    assert graph["metadata"]["slug"] == "l1.0.t0.9" and len(graph["metadata"]["prompt_tokens"]) == len(IDS)
    nodes = {node["node_id"]: node for node in graph["nodes"]}
    kinds = [node["feature_type"] for node in graph["nodes"]]
    assert len(nodes) == len(kinds) and kinds.count("embedding") == len(IDS)
    assert kinds.count("cross layer transcoder") == found["kept_features"] > 0
    logits = [node for node in graph["nodes"] if node["feature_type"] == "logit"]
    assert [node["is_target_logit"] for node in logits] == [True] + [False] * (len(logits) - 1)
    assert np.all(np.diff([node["token_prob"] for node in logits]) <= 0) and logits[0]["layer"] == "5"
    assert nodes["E_33_3"] | {"influence": 0} == {
        "node_id": "E_33_3",
        "feature": 3,
        "layer": "E",
        "ctx_idx": 3,
        "feature_type": "embedding",
        "token_prob": 0.0,
        "is_target_logit": False,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": "E_33-3",
        "clerp": "",
        "influence": 0,
    }
    assert len(graph["links"]) == found["kept_edges"] > 0
    assert all(link["source"] in nodes and link["target"] in nodes and link["weight"] for link in graph["links"])
    run: Any = SimpleNamespace(folder=tmp_path)
    (tmp_path / "steps").mkdir()
    files = AttributionGraphs().save(run, [found])
    assert all((tmp_path / name).is_file() for name in files) and f"graphs/{INDEX}" in files
    assert json.loads((tmp_path / "graphs" / INDEX).read_text())["graphs"] == [graph["metadata"]]
    assert AttributionGraphs().load(run) == [json.loads(json.dumps(found))]


def test_findings(found: dict[str, Any]) -> None:
    told = Graph(figures=1).findings(None, None, [found, found])  # type: ignore[arg-type]  # asks for no setting of it
    assert len(told.figures) == 1 and not list(problems_of(told.figures[0]))
    (network,) = told.figures[0].panels
    assert network.kind == "network" and {dot.kind for dot in network.dots} == {0, 1, 2}
    assert told.value["gap"] < 1e-4 and sum(told.value["shares"].values()) == pytest.approx(1)
    assert len(told.tables[0].rows) == 2 and all(row[-1] == "2" for row in told.tables[1].rows)
    assert len(told.cautions) == 1 and "circuit-tracer start-server --graph_file_dir graphs" in told.notes[0]
    short = {**found, "gap": 0.2, "shares": {**found["shares"], "left out": 0.5}}
    cautions = Graph(bos_nodes="zeroed").findings(None, None, [short]).cautions  # type: ignore[arg-type]
    assert len(cautions) == 3 and "Graphs are not complete" in cautions[1] and "max_nodes" in cautions[2]
