"""A pruned attribution graph as a figure: position along x, block along y, its strongest features named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from steerkit.findings import Dot, Figure, Network
from steerkit_plugins.transcoder.graph_viewer import FEATURE, LOGIT, TOKEN

KINDS = (FEATURE, TOKEN, LOGIT)
NAMES = ("feature", "token", "next token")
NAMED = 16
"""Features in a figure that are named."""
STEP = 0.6
"""Between nodes at one token and block, where tokens stand 1 apart."""
EDGES = 150
"""Edges in a figure, at most, the largest."""


def figure_of(name: str, found: Mapping[str, Any], drawn: int) -> Figure:
    """A graph, or the part of it with most influence.

    Args:
        found: of `graph_step.AttributionGraphs`.
        drawn: features at most.
    """
    graph = found["graph"]
    nodes, links = _part(graph, drawn)
    places = sorted({node["ctx_idx"] for node in nodes})
    layers = sorted({int(node["layer"]) for node in nodes if node["feature_type"] == FEATURE})
    top = layers[-1] + 1 if layers else 1
    xs = _columns(nodes, places)
    dots = _dots(nodes, xs, top)
    number = {node["node_id"]: n for n, node in enumerate(nodes)}
    tokens = graph["metadata"]["prompt_tokens"]
    features = sum(node["feature_type"] == FEATURE for node in nodes)
    following = f", which the trace goes on from with {found['following']!r}" if found["following"] else ""
    return Figure(
        name=name,
        title=f"What is predicted at {found['place']} of {found['model']}",
        caption=f"The {features} features with most influence on what is predicted after the last token{following}, of "
        f"{found['kept_features']} that pruning keeps. Features are named by the tokens that they make likelier by "
        "themselves.",
        panels=(
            Network(
                title="",
                xlabel="token (those without an edge are left out)",
                ylabel="block",
                kinds=NAMES,
                dots=dots,
                edges=tuple((number[link["source"]], number[link["target"]], link["weight"]) for link in links),
                xticks=tuple((x, f"{tokens[place].strip() or repr(tokens[place])} {place}") for place, x in xs.items()),
                yticks=((-1, "tokens"), *((layer, str(layer)) for layer in range(top)), (top, "next token")),
            ),
        ),
    )


def strongest(nodes: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """The features with most influence, the strongest first."""
    own = [node for node in nodes if node["feature_type"] == FEATURE]
    return sorted(own, key=lambda node: node["influence"])[:count]


def _part(graph: Mapping[str, Any], drawn: int) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """The strongest features and all other nodes that have an edge among the largest ones."""
    kept = {node["node_id"] for node in strongest(graph["nodes"], drawn)}
    kept |= {node["node_id"] for node in graph["nodes"] if node["feature_type"] != FEATURE}
    links = [link for link in graph["links"] if {link["source"], link["target"]} <= kept]
    links = sorted(links, key=lambda link: -abs(link["weight"]))[:EDGES]
    ends = {link[end] for link in links for end in ("source", "target")}
    return [node for node in graph["nodes"] if node["node_id"] in ends], links


def _columns(nodes: Sequence[Mapping[str, Any]], places: Sequence[int]) -> dict[int, float]:
    """Where each token stands: one with many nodes in a block takes more room."""
    most = Counter[int]()
    for (place, _), count in Counter((node["ctx_idx"], node["layer"]) for node in nodes).items():
        most[place] = max(most[place], count)
    found, at = dict[int, float](), 0.0
    for place in places:
        half = max(1.0, STEP * most[place] + 0.4) / 2
        found[place], at = at + half, at + 2 * half
    return found


def _dots(nodes: Sequence[Mapping[str, Any]], xs: Mapping[int, float], top: int) -> tuple[Dot, ...]:
    """Nodes at one token and block stand side by side."""
    named = {node["node_id"] for node in strongest(nodes, NAMED)}
    cells = [(node["ctx_idx"], node["layer"]) for node in nodes]
    counts, met, found = Counter(cells), Counter[tuple[int, str]](), list[Dot]()
    for node, cell in zip(nodes, cells, strict=True):
        place, count = met[cell], counts[cell]
        met[cell] += 1
        kind = KINDS.index(node["feature_type"])
        label = node["clerp"] if kind == 0 and node["node_id"] in named else _quoted(node["clerp"]) if kind == 2 else ""
        y = (int(node["layer"]) if kind == 0 else -1, -1, top)[kind]
        found.append(Dot(x=xs[cell[0]] + STEP * (place - (count - 1) / 2), y=y, kind=kind, label=label))
    return tuple(found)


def _quoted(clerp: str) -> str:
    """A next token and its probability, as ``'Wait' 0.31``."""
    text, _, share = clerp.removeprefix('Output "').rpartition('" (p=')
    return f"{text.strip()!r} {float(share.rstrip(')')):.2f}"
