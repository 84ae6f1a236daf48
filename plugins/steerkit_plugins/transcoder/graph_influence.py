"""Influence of nodes on the logits, and pruning by it (circuit-tracer's rules)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def influence(
    edges: np.ndarray, levels: np.ndarray, nodes: np.ndarray, weights: np.ndarray, columns: int
) -> np.ndarray:
    """w (A + A² + …), A the sizes of edges normalised by target: what share of the targets' weight each node carries.

    Edges lead from lower levels to higher ones alone, so that one pass from the top is exact.

    Args:
        edges: [S, C] into S targets, from sources that are numbered as nodes are.
        levels: [S] of the targets.
        nodes: [S] numbers of the targets among the C sources; −1 for those that are no source.
        weights: [S] what each target weighs by itself; 0 for features.
        columns: C.
    """
    found = np.zeros(columns)
    for level in np.unique(levels)[::-1]:
        own = np.flatnonzero(levels == level)
        through = weights[own] + np.where(nodes[own] >= 0, found[np.maximum(nodes[own], 0)], 0.0)
        sizes = np.abs(edges[own])
        found += (through / np.maximum(sizes.sum(1), 1e-10)) @ sizes
    return found


@dataclass(frozen=True, eq=False)
class Pruned:
    """What is left of a graph of M nodes.

    Attributes:
        nodes: [M] bool.
        edges: [M, M] bool, targets × sources.
        cumulative: [M] share of the influence that a node and all stronger ones hold.
    """

    nodes: np.ndarray
    edges: np.ndarray
    cumulative: np.ndarray


def prune(
    edges: np.ndarray,
    levels: np.ndarray,
    weights: np.ndarray,
    *,
    features: int,
    node_threshold: float = 0.8,
    edge_threshold: float = 0.98,
) -> Pruned:
    """Keep the nodes, then the edges among them, that hold these shares of the influence on the logits.

    Tokens and logits always stay; a feature that is left without edges to it or from it goes.

    Args:
        edges: [M, M] targets × sources, features before all others.
        levels: [M]; edges lead from lower to higher ones.
        weights: [M] the logits' probabilities, 0 for all others.
        features: how many there are.
        node_threshold: share of all nodes' influence that is kept.
        edge_threshold: share of all edges' influence, among the nodes that are kept.
    """
    everyone = np.arange(len(edges))
    of_nodes = influence(edges, levels, everyone, weights, len(edges))
    nodes = of_nodes >= _threshold(of_nodes, node_threshold)
    nodes[features:] = True
    kept = np.where(nodes[:, None] & nodes[None], edges, 0.0)
    through = influence(kept, levels, everyone, weights, len(edges)) + weights
    sizes = np.abs(kept)
    of_edges = sizes * (through / np.maximum(sizes.sum(1), 1e-10))[:, None]
    left = of_edges >= _threshold(of_edges.ravel(), edge_threshold)
    while True:
        before = nodes.copy()
        nodes[:features] &= left[:, :features].any(0) & left[:features].any(1)
        left &= nodes[:, None] & nodes[None]
        if np.array_equal(nodes, before):
            break
    order = np.argsort(-of_nodes, kind="stable")
    cumulative = np.zeros(len(edges))
    cumulative[order] = np.cumsum(of_nodes[order]) / max(of_nodes.sum(), 1e-300)
    return Pruned(nodes, left, cumulative)


def _threshold(scores: np.ndarray, share: float) -> float:
    """The score above and at which scores hold this share of their sum; never 0, which would keep what has none."""
    ordered = np.sort(scores[scores > 0])[::-1]
    if not len(ordered):
        return float("inf")
    sums = np.cumsum(ordered, dtype=np.float64)
    return float(ordered[min(int(np.searchsorted(sums / sums[-1], share)), len(sums) - 1)])
